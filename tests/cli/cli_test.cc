// The forms that scripts rely on: exit codes, JSON lines, environment twins, messages.
#include "cli/cli.h"

#include <gmock/gmock.h>

#include <streambuf>

#include "absl/time/clock.h"
#include "tests/cli/cli_fixture.h"

namespace msa::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kTwoLines[] =
    "{\"id\":\"ke\",\"title\":\"Kenya\",\"text\":\"Kenya has 197 "
    "airports\",\"metadata\":{\"y\":1}}\n"
    "{\"id\":\"no\",\"title\":\"Norway\",\"text\":\"Norway has 98 airports\"}\n";

TEST_F(CliTest, ACommandLineThatCannotBeReadIsAnsweredWithWhatThereIs) {
  EXPECT_EQ(Msa({}), 2);
  EXPECT_THAT(err_, HasSubstr("Verbs: add rm ls"));
  EXPECT_EQ(Msa({"bank"}), 2);
  EXPECT_THAT(err_, HasSubstr("Verbs: create ls rm"));
  EXPECT_EQ(Msa({"ask"}), 2);
  EXPECT_THAT(err_, HasSubstr("msa ask: question is required"));
  EXPECT_THAT(err_, HasSubstr("More: msa ask --help"));
}

TEST_F(CliTest, ASlipIsAnsweredWithWhatWasMeant) {
  EXPECT_EQ(Msa({"frobnicate"}), 2);
  EXPECT_THAT(err_, HasSubstr("there is no verb 'frobnicate'\nVerbs: add"));
  EXPECT_EQ(Msa({"retreive", "q"}), 2);
  EXPECT_THAT(err_, HasSubstr("there is no verb 'retreive'; did you mean retrieve?"));
  EXPECT_EQ(Msa({"retreive", "--limit", "3", "q"}), 2);
  EXPECT_THAT(err_, HasSubstr("there is no verb 'retreive'; did you mean retrieve?"));
  EXPECT_EQ(Msa({"bank", "creat", "b"}), 2);
  EXPECT_THAT(err_, HasSubstr("msa bank: there is no verb 'creat'; did you mean create?"));
  EXPECT_EQ(Msa({"ask", "--k", "5", "q"}), 2);
  EXPECT_THAT(err_, HasSubstr("msa ask: there is no flag --k; did you mean --top-k?"));
  EXPECT_EQ(Msa({"ask", "--max-tokens=9", "q"}), 2);
  EXPECT_THAT(err_, HasSubstr("no flag --max-tokens; did you mean --max-new-tokens?"));
  EXPECT_EQ(Msa({"ls", "--nonsense"}), 2);
  EXPECT_THAT(err_, HasSubstr("msa ls: there is no flag --nonsense\n"));
  EXPECT_EQ(Msa({"--server", "127.0.0.1:1", "ls"}), 2);
  EXPECT_THAT(err_, HasSubstr("flags come after the verb: msa ls --server"));
  EXPECT_EQ(Msa({"ask", "two", "words"}), 2);
  EXPECT_THAT(err_, HasSubstr("'words' is one argument too many"));
}

TEST_F(CliTest, ANumberOutOfBoundsIsRefusedWithThem) {
  EXPECT_EQ(Msa({"bench", "--questions", "q", "--concurrency", "0"}), 2);
  EXPECT_THAT(err_, HasSubstr("--concurrency: 0 is not allowed: use 1 to 4096"));
  EXPECT_EQ(Msa({"ls", "--limit", "-1"}), 2);
  EXPECT_THAT(err_, HasSubstr("-1 is not allowed: use 0 to"));
  EXPECT_EQ(Msa({"ls", "--limit", "many"}), 2);
  SetEnvironment("MSA_LIMIT", "-2");
  EXPECT_EQ(Msa({"ls"}), 2);
  EXPECT_THAT(err_, HasSubstr("-2 is not allowed"));
  EXPECT_EQ(server_, "") << "nobody was asked";
}

TEST_F(CliTest, AnAddressOrATimeThatIsNoneIsAUsageError) {
  for (const char* address : {"127.0.0.1", "127.0.0.1:99999", "not an address", ""}) {
    EXPECT_EQ(Msa({"ls", "--server", address}), 2) << address;
    EXPECT_THAT(err_, HasSubstr("use host:port"));
  }
  for (const char* timeout : {"0", "-5", "nan"}) {
    EXPECT_EQ(Msa({"ls", "--timeout", timeout}), 2) << timeout;
    EXPECT_THAT(err_, HasSubstr("--timeout must be more than 0"));
  }
  EXPECT_EQ(server_, "") << "nobody was asked";
}

TEST_F(CliTest, ADocumentOverTheLimitIsRefusedByNameAndTheOthersGoOn) {
  const std::string big = "{\"id\":\"big\",\"text\":\"" + std::string(65 << 20, 'x') + "\"}\n";
  EXPECT_EQ(Msa({"add", "--json", "-"}, big + kTwoLines), 5);
  EXPECT_THAT(err_, HasSubstr("standard input:1: the text has 68157440 bytes, the limit is"));
  const std::vector<Json> lines = OutLines();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["id"], "big");
  EXPECT_EQ(lines[1]["id"], "ke");
}

TEST_F(CliTest, ALineThatIsNotUtf8SaysWhere) {
  EXPECT_EQ(Msa({"add", "-"}, "{\"id\":\"a\",\"text\":\"x\xFF\"}\n"), 5);
  EXPECT_THAT(err_, HasSubstr("standard input:1: not valid UTF-8 at byte 19 of the line"));
}

TEST_F(CliTest, AnIdAsLongAsAPageIsNotEchoedWhole) {
  EXPECT_EQ(Msa({"rm", std::string(10240, 'x')}), 3);
  EXPECT_THAT(err_, HasSubstr(std::string(80, 'x') + "…: "));
}

TEST_F(CliTest, AddPrintsAnObjectALineAsEachIsAcknowledged) {
  ASSERT_EQ(Msa({"add", "--json", Write("d.jsonl", kTwoLines)}), 0) << err_;
  const std::vector<Json> lines = OutLines();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["id"], "ke");
  EXPECT_EQ(lines[0]["revision"], 1);
  EXPECT_EQ(lines[0]["tokens"], 4);
  EXPECT_EQ(lines[0]["chunks"], 1);
  EXPECT_EQ(lines[0]["parts"], 1);
  EXPECT_EQ(lines[1]["id"], "no");
}

TEST_F(CliTest, AddAgainRaisesTheRevision) {
  const std::string file = Write("d.jsonl", kTwoLines);
  ASSERT_EQ(Msa({"add", "--json", file}), 0);
  ASSERT_EQ(Msa({"add", "--json", file}), 0);
  EXPECT_EQ(OutLines()[0]["revision"], 2);
}

TEST_F(CliTest, AMalformedLineIsNamedAndTheOthersGoOn) {
  const std::string file =
      Write("d.jsonl", "{\"id\":\"a\",\"text\":\"x\"}\nnot json\n{\"id\":\"b\",\"text\":\"y\"}\n");
  EXPECT_EQ(Msa({"add", file}), 5);
  EXPECT_THAT(err_, HasSubstr(file + ":2: not JSON"));
  EXPECT_THAT(err_, HasSubstr("1 of 3 documents were not added"));
  ASSERT_EQ(Msa({"ls", "--json"}), 0);
  EXPECT_EQ(OutLines().size(), 2u);
}

TEST_F(CliTest, ARefusedDocumentIsAnErrorObjectWithItsPlace) {
  const std::string file =
      Write("d.jsonl", "{\"id\":\"empty\",\"text\":\"\"}\n{\"id\":\"b\",\"text\":\"y\"}\n");
  EXPECT_EQ(Msa({"add", "--json", file}), 5);
  const std::vector<Json> lines = OutLines();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["id"], "empty");
  EXPECT_EQ(lines[0]["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(lines[0]["error"]["message"], file + ":1: the text is empty");
  EXPECT_EQ(lines[1]["revision"], 1);
}

TEST_F(CliTest, AddReadsStandardInput) {
  ASSERT_EQ(Msa({"add", "--json", "-"}, kTwoLines), 0) << err_;
  EXPECT_EQ(OutLines().size(), 2u);
}

TEST_F(CliTest, AddToAnUnknownBankIsNotFound) {
  EXPECT_EQ(Msa({"add", "--bank", "nope", "-"}, kTwoLines), 3);
  EXPECT_THAT(err_, Not(HasSubstr("added 0")));
  EXPECT_THAT(err_, HasSubstr("no bank 'nope'"));
}

TEST_F(CliTest, AddOfAMissingFileIsNotFoundAndAddsNothing) {
  EXPECT_EQ(Msa({"add", Write("d.jsonl", kTwoLines), folder_ + "/none.jsonl"}), 3);
  EXPECT_THAT(err_, HasSubstr("none.jsonl"));
  Msa({"ls", "--json"});
  EXPECT_TRUE(OutLines().empty());
}

TEST_F(CliTest, RmReportsEachAndGoesOn) {
  Msa({"add", "-"}, kTwoLines);
  EXPECT_EQ(Msa({"rm", "--json", "none", "ke"}), 3);
  const std::vector<Json> lines = OutLines();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["error"]["code"], "NOT_FOUND");
  EXPECT_EQ(lines[1]["id"], "ke");
  EXPECT_EQ(lines[1]["revision"], 1);
  EXPECT_EQ(Msa({"get", "ke"}), 3);
}

TEST_F(CliTest, LsPagesThroughAll) {
  std::string many;
  for (int i = 0; i < 2500; ++i) {
    many += "{\"id\":\"d" + std::to_string(i) + "\",\"text\":\"t\"}\n";
  }
  ASSERT_EQ(Msa({"add", "-"}, many), 0);
  ASSERT_EQ(Msa({"ls", "--json"}), 0);
  EXPECT_EQ(OutLines().size(), 2500u);
  ASSERT_EQ(Msa({"ls", "--json", "--limit", "1001"}), 0);
  EXPECT_EQ(OutLines().size(), 1001u);
}

TEST_F(CliTest, LsHasTheFieldsScriptsRead) {
  Msa({"add", "-"}, kTwoLines);
  ASSERT_EQ(Msa({"ls", "--json"}), 0);
  const Json line = OutLines()[0];
  EXPECT_EQ(line["id"], "ke");
  EXPECT_EQ(line["revision"], 1);
  EXPECT_EQ(line["tokens"], 4);
  EXPECT_EQ(line["chunks"], 1);
  EXPECT_EQ(line["title"], "Kenya");
  EXPECT_EQ(line["parts"].size(), 1u);
  EXPECT_EQ(line["metadata"]["y"], 1);
}

TEST_F(CliTest, GetPrintsTheTextAndAsJsonWithoutItsTitle) {
  Msa({"add", "-"}, kTwoLines);
  ASSERT_EQ(Msa({"get", "ke"}), 0);
  EXPECT_EQ(out_, "Kenya\nKenya has 197 airports\n");
  ASSERT_EQ(Msa({"get", "--json", "ke"}), 0);
  EXPECT_EQ(OutLines()[0]["text"], "Kenya has 197 airports");
  EXPECT_EQ(OutLines()[0]["title"], "Kenya");
}

TEST_F(CliTest, AnObjectStaysOnOneLineForEveryReader) {
  Msa({"add", "-"}, "{\"id\":\"a\",\"text\":\"x\u2028y\u2029z\u0085\\n\"}\n");
  ASSERT_EQ(Msa({"get", "--json", "a"}), 0);
  EXPECT_THAT(out_, Not(HasSubstr("\u2028")));
  EXPECT_THAT(out_, Not(HasSubstr("\u2029")));
  EXPECT_THAT(out_, Not(HasSubstr("\u0085")));
  EXPECT_EQ(OutLines()[0]["text"], "x\u2028y\u2029z\u0085\n");
}

TEST_F(CliTest, RetrieveGivesDocumentsBestFirst) {
  Msa({"add", "-"}, kTwoLines);
  ASSERT_EQ(Msa({"retrieve", "--json", "--limit", "2", "airports in Norway"}), 0);
  const Json reply = OutLines()[0];
  ASSERT_EQ(reply["documents"].size(), 2u);
  EXPECT_EQ(reply["documents"][0]["id"], "no");
  EXPECT_EQ(reply["documents"][0]["score"], 2.0);
  EXPECT_EQ(reply["documents"][0]["title"], "Norway");
  EXPECT_EQ(reply["documents"][0]["part"], 0);
  EXPECT_EQ(reply["documents"][0]["span"], Json::array({0, 29}));
  EXPECT_TRUE(reply.contains("timings_ms"));
}

TEST_F(CliTest, AskAsJsonGivesEveryEventAndEndsWithDone) {
  Msa({"add", "-"}, kTwoLines);
  ASSERT_EQ(Msa({"ask", "--json", "airports in Norway"}), 0);
  const std::vector<Json> events = OutLines();
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["event"], "routing");
  EXPECT_EQ(events[1]["event"], "documents");
  EXPECT_EQ(events[2]["event"], "text");
  const Json& done = events[3];
  EXPECT_EQ(done["event"], "done");
  EXPECT_EQ(done["answer"], "Norway\nNorway has 98 airports");
  EXPECT_EQ(done["documents"][0]["id"], "no");
  EXPECT_EQ(done["answered_from"][0], done["documents"][0]["reference"]);
  EXPECT_EQ(done["usage"]["rounds"], 1);
  EXPECT_TRUE(done["timings_ms"].contains("total"));
}

TEST_F(CliTest, AskForAPersonShowsRoutingAnswerAndCitation) {
  Msa({"add", "-"}, kTwoLines);
  ASSERT_EQ(Msa({"ask", "airports in Norway"}), 0);
  EXPECT_THAT(out_, HasSubstr("round 1: routed to 1 documents"));
  EXPECT_THAT(out_, HasSubstr("Norway has 98 airports\n"));
  EXPECT_THAT(out_, HasSubstr("  from no · Norway [part 0, bytes 0–29]"));
  EXPECT_THAT(out_, Not(HasSubstr("\x1b["))) << "colours only on a terminal";
}

TEST_F(CliTest, ARefusalIsFromNoDocument) {
  Msa({"add", "-"}, kTwoLines);
  ASSERT_EQ(Msa({"ask", "nobody in Norway"}), 0);
  EXPECT_THAT(out_, HasSubstr("  read no · Norway [part 0, bytes 0–29]"));
  EXPECT_THAT(out_, Not(HasSubstr("  from ")));
}

TEST_F(CliTest, EveryFieldOfARequestHasAFlag) {
  ASSERT_EQ(Msa({"ask", "--mode", "router", "--top-k", "7", "--reader-documents", "2",
                 "--max-rounds", "3", "--max-new-tokens", "9", "--temperature", "0.5", "--seed",
                 "11", "--no-memory", "--allow-partial", "--read-together", "q"}),
            0);
  const rpc::GenerateRequest request = service_.last_generate();
  EXPECT_EQ(request.bank, "default");
  EXPECT_EQ(request.question, "q");
  EXPECT_EQ(request.mode, "router");
  EXPECT_EQ(request.top_k, 7);
  EXPECT_EQ(request.reader_documents, 2);
  EXPECT_EQ(request.max_rounds, 3);
  EXPECT_EQ(request.max_new_tokens, 9);
  EXPECT_EQ(request.temperature, 0.5f);
  EXPECT_EQ(request.seed, 11u);
  EXPECT_FALSE(request.use_memory);
  EXPECT_TRUE(request.allow_partial);
  EXPECT_TRUE(request.read_together);
}

TEST_F(CliTest, WhatIsNotGivenIsLeftToTheModel) {
  ASSERT_EQ(Msa({"ask", "-"}, "from standard input\n"), 0);
  const rpc::GenerateRequest request = service_.last_generate();
  EXPECT_EQ(request.question, "from standard input");
  EXPECT_FALSE(request.mode.has_value());
  EXPECT_FALSE(request.top_k.has_value());
  EXPECT_FALSE(request.max_rounds.has_value());
  EXPECT_FALSE(request.max_new_tokens.has_value());
  EXPECT_TRUE(request.use_memory);
  EXPECT_FALSE(request.allow_partial);
}

TEST_F(CliTest, EveryFlagHasAnEnvironmentTwinAndTheFlagWins) {
  SetEnvironment("MSA_SERVER", "127.0.0.1:9");
  SetEnvironment("MSA_TOP_K", "5");
  SetEnvironment("MSA_MAX_ROUNDS", "2");
  SetEnvironment("MSA_JSON", "1");
  SetEnvironment("MSA_ALLOW_PARTIAL", "true");
  ASSERT_EQ(Msa({"ask", "--max-rounds", "4", "q"}), 0);
  EXPECT_EQ(server_, "127.0.0.1:9");
  EXPECT_EQ(service_.last_generate().top_k, 5);
  EXPECT_EQ(service_.last_generate().max_rounds, 4);
  EXPECT_TRUE(service_.last_generate().allow_partial);
  EXPECT_EQ(OutLines().back()["event"], "done");
}

TEST_F(CliTest, CallsHaveADeadlineAndARequestId) {
  Msa({"ls", "--timeout", "5"});
  const rpc::CallContext context = service_.last_context();
  EXPECT_LE(context.deadline, absl::Now() + absl::Seconds(5));
  EXPECT_GT(context.deadline, absl::Now() - absl::Seconds(60));
  EXPECT_FALSE(context.request_id.empty());
}

TEST_F(CliTest, ExitCodesTellFailuresApart) {
  EXPECT_EQ(Msa({}), 2);
  EXPECT_EQ(Msa({"frobnicate"}), 2);
  EXPECT_EQ(Msa({"ask"}), 2);
  EXPECT_EQ(Msa({"ask", "--mode", "psychic", "q"}), 2);
  EXPECT_EQ(Msa({"ls", "--limit", "many"}), 2);
  EXPECT_EQ(Msa({"--help"}), 0);
  EXPECT_THAT(out_, HasSubstr("Exit codes:"));
  EXPECT_EQ(Msa({"get", "none"}), 3);
  service_.FailWith(absl::DeadlineExceededError("too late"));
  EXPECT_EQ(Msa({"ask", "q"}), 4);
  service_.FailWith(absl::InvalidArgumentError("empty question"));
  EXPECT_EQ(Msa({"ask", ""}), 5);
  service_.FailWith(absl::FailedPreconditionError("another model"));
  EXPECT_EQ(Msa({"ask", "q"}), 5);
  service_.FailWith(absl::InternalError("a bug"));
  EXPECT_EQ(Msa({"ask", "q"}), 1);
}

TEST_F(CliTest, OutputThatCannotBeWrittenIsAFailure) {
  ASSERT_EQ(Msa({"add", "-"}, kTwoLines), 0);
  class FullDisk : public std::streambuf {};  // takes nothing
  const std::vector<std::vector<const char*>> command_lines = {
      {"msa", "get", "ke"}, {"msa", "ls", "--json"}, {"msa", "ask", "How many?"}, {"msa", "stats"}};
  for (const std::vector<const char*>& argv : command_lines) {
    FullDisk full;
    std::istringstream in;
    std::ostream out(&full);
    std::ostringstream err;
    Io io{in, out, err};
    EXPECT_EQ(RunCommandLine(ClientVerbs(connect_, synthetic_), static_cast<int>(argv.size()),
                             argv.data(), io),
              1)
        << argv[1];
    EXPECT_THAT(err.str(), HasSubstr("not all of the output could be written")) << argv[1];
  }
}

TEST_F(CliTest, AnUnreachableServerIsToldHowToBeStarted) {
  reachable_ = false;
  service_.FailWith(absl::UnavailableError("connection refused"));
  EXPECT_EQ(Msa({"ls", "--server", "127.0.0.1:1"}), 4);
  EXPECT_THAT(err_, HasSubstr("connection refused"));
  EXPECT_THAT(err_, HasSubstr("msa serve --data-dir DIR --model DIR --listen 127.0.0.1:1"));
  EXPECT_THAT(err_, HasSubstr("MSA_SERVER"));
}

TEST_F(CliTest, AServerElsewhereIsNotToldToBeStartedHere) {
  reachable_ = false;
  service_.FailWith(absl::UnavailableError("DNS resolution failed"));
  EXPECT_EQ(Msa({"ls", "--server", "memory.example.org:7070"}), 4);
  EXPECT_THAT(err_, Not(HasSubstr("msa serve")));
  EXPECT_THAT(err_, HasSubstr("name another with --server"));
}

TEST_F(CliTest, AServerThatMissesAShardIsNotToldToBeStarted) {
  service_.FailWith(absl::UnavailableError("shard 'b' does not answer"));
  EXPECT_EQ(Msa({"ls"}), 4);
  EXPECT_THAT(err_, HasSubstr("shard 'b'"));
  EXPECT_THAT(err_, Not(HasSubstr("msa serve")));
}

TEST_F(CliTest, AFailedAnswerEndsItsEventsWithTheError) {
  service_.FailWith(absl::UnavailableError("shard b does not answer"));
  EXPECT_EQ(Msa({"ask", "--json", "q"}), 4);
  EXPECT_EQ(OutLines().back()["event"], "error");
  EXPECT_EQ(OutLines().back()["error"]["code"], "UNAVAILABLE");
}

TEST_F(CliTest, BanksAreMadeListedAndDeleted) {
  ASSERT_EQ(Msa({"bank", "create", "--json", "--routing-precision", "int8", "--content-precision",
                 "fp8", "--part-tokens", "64", "b"}),
            0)
      << err_;
  EXPECT_EQ(OutLines()[0]["name"], "b");
  EXPECT_EQ(OutLines()[0]["routing_precision"], "int8");
  EXPECT_EQ(OutLines()[0]["content_precision"], "fp8");
  EXPECT_EQ(OutLines()[0]["part_tokens"], 64);
  EXPECT_EQ(Msa({"bank", "create", "b"}), 5);
  ASSERT_EQ(Msa({"bank", "ls", "--json"}), 0);
  ASSERT_EQ(OutLines().size(), 2u);
  EXPECT_EQ(OutLines()[0]["name"], "b");
  EXPECT_EQ(Msa({"bank", "rm", "b"}), 0);
  EXPECT_EQ(Msa({"bank", "rm", "b"}), 3);
  EXPECT_EQ(Msa({"bank"}), 2);
}

// It would be another than the one that is named.
TEST_F(CliTest, VerbsOfANamedBankTakeNoOther) {
  const std::vector<std::vector<std::string>> verbs = {
      {"create", "b"}, {"ls"}, {"rm", "b"}, {"calibrate", "b", "--off"}};
  for (std::vector<std::string> arguments : verbs) {
    arguments.insert(arguments.begin(), "bank");
    arguments.insert(arguments.end(), {"--bank", "another"});
    EXPECT_EQ(Msa(arguments), 2) << arguments[1];
    EXPECT_THAT(err_, HasSubstr("there is no flag --bank"));
  }
  SetEnvironment("MSA_BANK", "another");  // which is meant for other verbs
  EXPECT_EQ(Msa({"bank", "ls"}), 0) << err_;
}

TEST_F(CliTest, StatsAsJsonHasAnEntryAShard) {
  Msa({"add", "-"}, kTwoLines);
  ASSERT_EQ(Msa({"stats", "--json"}), 0);
  EXPECT_EQ(OutLines()[0]["shards"][0]["shard"], "shard-0");
  EXPECT_EQ(OutLines()[0]["shards"][0]["documents"], 2);
  EXPECT_EQ(Msa({"stats"}), 0);
  EXPECT_THAT(out_, HasSubstr("shard-0"));
}

}  // namespace
}  // namespace msa::cli

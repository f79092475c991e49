// `eval` and `bench` end to end on a corpus whose right scores are known by hand.
#include <gmock/gmock.h>

#include "tests/cli/cli_fixture.h"

namespace msa::cli {
namespace {

using ::testing::HasSubstr;

constexpr char kCorpus[] =
    "{\"id\":\"1\",\"title\":\"Kenya\",\"text\":\"apple pear\"}\n"
    "{\"id\":\"2\",\"title\":\"Norway\",\"text\":\"apple plum\"}\n"
    "{\"id\":\"3\",\"title\":\"Chad\",\"text\":\"fig\"}\n";
// Ranked 1, 2, 3 / 2, 1, 3 / 3, 1, 2: recall@1 = 1/2, 1, 0; recall@2 = 1, 1, 1/2.
constexpr char kQuestions[] =
    "{\"id\":\"a\",\"question\":\"apple pear\",\"answers\":[],"
    "\"supporting_titles_or_ids\":[\"1\",\"Norway\"]}\n"
    "{\"id\":\"b\",\"question\":\"apple plum\",\"answers\":[\"The Norway, apple plum!\"],"
    "\"supporting_titles_or_ids\":[\"2\",\"2\"]}\n"
    "{\"id\":\"c\",\"question\":\"fig\",\"answers\":[\"nothing\",\"chad\"],"
    "\"supporting_titles_or_ids\":[\"1\",\"2\"]}\n";

class EvalTest : public CliTest {
 protected:
  std::string corpus_ = Write("corpus.jsonl", kCorpus);
  std::string questions_ = Write("questions.jsonl", kQuestions);
};

TEST_F(EvalTest, GivesRecallExactMatchAndF1) {
  ASSERT_EQ(Msa({"eval", "--json", "--corpus", corpus_, "--questions", questions_, "--k", "1,2",
                 "--answers", "--concurrency", "2"}),
            0)
      << err_;
  const Json report = OutLines()[0];
  EXPECT_EQ(report["questions"], 3);
  EXPECT_EQ(report["with_gold"], 3);
  EXPECT_EQ(report["documents_added"], 3);
  EXPECT_NEAR(report["recall"]["1"], (0.5 + 1 + 0) / 3, 1e-9);
  EXPECT_NEAR(report["recall"]["2"], (1 + 1 + 0.5) / 3, 1e-9);
  EXPECT_NEAR(report["all_gold"]["1"], 1.0 / 3, 1e-9);
  EXPECT_NEAR(report["all_gold"]["2"], 2.0 / 3, 1e-9);
  // Answers are "Norway\napple plum" (exact) and "Chad\nfig" (one of two words).
  EXPECT_EQ(report["with_answers"], 2);
  EXPECT_NEAR(report["exact_match"], 0.5, 1e-9);
  EXPECT_NEAR(report["f1"], (1 + 2.0 / 3) / 2, 1e-9);
  EXPECT_EQ(report["refused"], 0.0);
  EXPECT_EQ(report["without_answers"], 1);
  EXPECT_EQ(report["refused_without_answers"], 0.0);
  // Question b needs one document, the others two.
  const Json& one = report["by_gold_documents"]["1"];
  const Json& two = report["by_gold_documents"]["2"];
  EXPECT_EQ(one["questions"], 1);
  EXPECT_EQ(one["recall"]["1"], 1.0);
  EXPECT_EQ(one["exact_match"], 1.0);
  EXPECT_TRUE(one["refused_without_answers"].is_null());
  EXPECT_EQ(two["questions"], 2);
  EXPECT_NEAR(two["recall"]["1"], 0.25, 1e-9);
  EXPECT_NEAR(two["f1"], 2.0 / 3, 1e-9);
  // Of a and c: the first document that they name is ranked 1st and 2nd, the second 2nd and 3rd.
  EXPECT_EQ(report["by_hop"],
            Json::parse("{\"1\":{\"questions\":2,\"recall\":{\"1\":0.5,\"2\":1.0}},"
                        "\"2\":{\"questions\":2,\"recall\":{\"1\":0.0,\"2\":0.5}}}"));
}

TEST_F(EvalTest, SaysHowManyHaveTheirSecondDocument) {
  ASSERT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", questions_, "--k", "1,2"}), 0) << err_;
  EXPECT_THAT(out_,
              HasSubstr("document 2 of 2 questions that name several: recall % 0.0 @1 50.0 @2"));
}

// The service of the test has no answer where a question says "nobody".
TEST_F(EvalTest, CountsWhatIsRefused) {
  const std::string asked = Write(
      "refused.jsonl",
      "{\"question\":\"nobody knows\",\"answers\":[]}\n{\"question\":\"apple\",\"answers\":[]}\n"
      "{\"question\":\"nobody had an apple\",\"answers\":[\"pear\"]}\n");
  ASSERT_EQ(Msa({"eval", "--json", "--corpus", corpus_, "--questions", asked, "--answers"}), 0)
      << err_;
  const Json report = OutLines()[0];
  EXPECT_EQ(report["without_answers"], 2);
  EXPECT_EQ(report["refused_without_answers"], 0.5);
  EXPECT_EQ(report["with_answers"], 1);
  EXPECT_EQ(report["refused"], 1.0);
  EXPECT_TRUE(report["recall"]["1"].is_null()) << "of no question with gold documents";
  ASSERT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", asked, "--answers"}), 0);
  EXPECT_THAT(out_, HasSubstr("50.0 % of 2 questions without answers refused"));
  EXPECT_THAT(out_, HasSubstr("100.0 % refused"));
  EXPECT_THAT(out_, ::testing::Not(HasSubstr("recall %")));
}

TEST_F(EvalTest, LeavesNoBankBehind) {
  ASSERT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", questions_}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("recall %"));
  Msa({"bank", "ls", "--json"});
  EXPECT_EQ(OutLines().size(), 1u);
}

TEST_F(EvalTest, ReadsTogetherWhatItAnswers) {
  EXPECT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", questions_, "--read-together"}), 2);
  EXPECT_THAT(err_, HasSubstr("give --answers too"));
  ASSERT_EQ(
      Msa({"eval", "--corpus", corpus_, "--questions", questions_, "--read-together", "--answers"}),
      0);
  EXPECT_TRUE(service_.last_generate().read_together);
}

TEST_F(EvalTest, MeasuresAnExistingBank) {
  Msa({"add", corpus_});
  ASSERT_EQ(Msa({"eval", "--json", "--no-add", "--questions", questions_, "--k", "3"}), 0) << err_;
  EXPECT_EQ(OutLines()[0]["bank"], "default");
  EXPECT_EQ(OutLines()[0]["recall"]["3"], 1.0);
  EXPECT_EQ(service_.last_retrieve().limit, 3);
}

TEST_F(EvalTest, WritesAnObjectAQuestion) {
  EXPECT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", questions_, "--details",
                 folder_ + "/none/details.jsonl"}),
            1);
  EXPECT_THAT(err_, HasSubstr("none/details.jsonl"));
  EXPECT_EQ(service_.last_retrieve().question, "") << "it is told before anything is asked";
  const std::string details = folder_ + "/details.jsonl";
  ASSERT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", questions_, "--answers", "--details",
                 details}),
            0);
  std::ifstream file(details);
  std::string line;
  ASSERT_TRUE(std::getline(file, line));
  EXPECT_EQ(Json::parse(line)["ranked"], Json::array({"1", "2", "3"}));
}

TEST_F(EvalTest, SaysWhatItNeeds) {
  EXPECT_EQ(Msa({"eval", "--questions", questions_}), 2);
  EXPECT_EQ(Msa({"eval", "--corpus", corpus_, "--no-add", "--questions", questions_}), 2);
  EXPECT_EQ(Msa({"eval", "--corpus", corpus_}), 2);
  EXPECT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", folder_ + "/none"}), 3);
  EXPECT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", questions_, "--k", "0"}), 2);
  const std::string broken = Write("broken.jsonl", "{\"question\":\"x\"}\n{\"question\":7}\n");
  EXPECT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", broken}), 5);
  EXPECT_THAT(err_, HasSubstr(broken + ":2:"));
}

TEST_F(EvalTest, ReadsWhatOtherSetsLookLike) {
  const std::string questions = Write(
      "other.jsonl",
      "\xEF\xBB\xBF{\"question\":\"apple pear\",\"answers\":\"Kenya apple pear\","
      "\"supporting_titles_or_ids\":\"1\",\"level\":3}\r\n  \r\n"
      "{\"question\":\"apple plum\",\"answer\":\"Norway apple plum\"}\r\n"
      "{\"question\":\"fig\",\"answers\":{\"text\":[\"Chad fig\"],\"answer_start\":[0]}}\r\n"
      "{\"id\":7,\"question\":\"plum\",\"answers\":[1459],\"answer\":\"Norway apple plum\"}\r\n");
  ASSERT_EQ(Msa({"eval", "--json", "--corpus", corpus_, "--questions", questions, "--answers"}), 0)
      << err_;
  const Json report = OutLines()[0];
  EXPECT_EQ(report["questions"], 4);
  EXPECT_EQ(report["with_gold"], 1);
  EXPECT_EQ(report["with_answers"], 4);
  EXPECT_EQ(report["exact_match"], 0.75);
}

TEST_F(EvalTest, NothingAnswersAQuestionWhoseAnswersAreEmpty) {
  const std::string questions =
      Write("empty.jsonl",
            "{\"question\":\"nobody\",\"answer\":\"\"}\n"
            "{\"question\":\"nobody\",\"answers\":[\"\",\" \"]}\n"
            "{\"question\":\"fig\",\"answers\":[\"\",\"Chad fig\"]}\n"
            "{\"question\":\"fig\",\"answers\":null,\"answer\":\"Chad fig\"}\n");
  ASSERT_EQ(Msa({"eval", "--json", "--corpus", corpus_, "--questions", questions, "--answers"}), 0)
      << err_;
  const Json report = OutLines()[0];
  EXPECT_EQ(report["without_answers"], 2);
  EXPECT_EQ(report["refused_without_answers"], 1.0);
  EXPECT_EQ(report["with_answers"], 2);
  EXPECT_EQ(report["exact_match"], 1.0);
}

TEST_F(EvalTest, SaysWhatIsWrongWithAQuestion) {
  const auto refused = [&](const std::string& line, const std::string& words) {
    const std::string file = Write("bad.jsonl", "{\"question\":\"x\"}\n" + line + "\n");
    EXPECT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", file}), 5);
    EXPECT_THAT(err_, HasSubstr(file + ":2: " + words));
  };
  refused("{\"question\":\"K\xF6ln\"}", "not valid UTF-8 at byte 14");
  refused("{\"question\":", "not JSON");
  refused("{\"id\":" + std::string(2'000'000, '[') + std::string(2'000'000, ']') + "}", "lists or");
  refused("{\"question\":\"x\",\"answers\":{\"span\":1}}", "\"answers\" must be");
  refused("{\"question\":\"x\",\"answers\":[[\"y\"]]}", "\"answers\" must be");
  refused("{\"question\":\"x\",\"supporting_titles_or_ids\":{\"text\":\"1\"}}",
          "\"supporting_titles_or_ids\" must be");
}

TEST_F(EvalTest, ARankThatIsNamedTwiceIsOne) {
  ASSERT_EQ(Msa({"eval", "--json", "--corpus", corpus_, "--questions", questions_, "--k", "2,1,2"}),
            0);
  EXPECT_EQ(Dump(OutLines()[0]["all_gold"]).substr(0, 5), "{\"1\":");
  EXPECT_NEAR(OutLines()[0]["recall"]["2"], (1 + 1 + 0.5) / 3, 1e-9);
}

TEST_F(EvalTest, SaysWhichGoldIsNotThere) {
  const std::string questions =
      Write("gold.jsonl",
            "{\"question\":\"fig\",\"supporting_titles_or_ids\":[\"Chad\",\"4\",\"chad\"]}\n");
  ASSERT_EQ(Msa({"eval", "--json", "--corpus", corpus_, "--questions", questions}), 0);
  EXPECT_EQ(OutLines()[0]["gold_missing"], 2);
  EXPECT_THAT(err_, HasSubstr("2 gold documents are not in bank"));
  EXPECT_THAT(err_, HasSubstr("the first: 4"));
}

TEST_F(EvalTest, ACorpusThatCannotBeAddedWholeIsToldFirst) {
  const std::string twice = Write("twice.jsonl", std::string(kCorpus) + kCorpus);
  EXPECT_EQ(Msa({"eval", "--corpus", twice, "--questions", questions_}), 5);
  EXPECT_THAT(err_, HasSubstr(twice + ":4: the id '1' came earlier"));
  EXPECT_THAT(err_, ::testing::Not(HasSubstr("added 3"))) << "before anything is encoded";
}

TEST_F(EvalTest, SaysWhyQuestionsFail) {
  const std::string some =
      Write("some.jsonl", "{\"question\":\"fig\"}\n{\"id\":\"b\",\"question\":\"\"}\n");
  ASSERT_EQ(Msa({"eval", "--json", "--corpus", corpus_, "--questions", some}), 0);
  EXPECT_EQ(OutLines()[0]["failed"], 1);
  EXPECT_THAT(err_, HasSubstr("1 of 2 questions failed, and count as wrong; the first: b: "));
  const std::string all = Write("all.jsonl", "{\"question\":\"\"}\n");
  EXPECT_EQ(Msa({"eval", "--corpus", corpus_, "--questions", all}), 5);
  EXPECT_THAT(err_,
              HasSubstr("1 of 1 questions failed, and count as wrong; the first: number 1: "));
  Msa({"bank", "ls", "--json"});
  EXPECT_EQ(OutLines().size(), 1u) << "the bank it added to must be gone";
}

TEST_F(EvalTest, BenchNamesTheLineThatIsNoDocument) {
  const std::string corpus = Write("bad.jsonl", "{\"id\":\"a\",\"text\":\"x\"}\n[1]\n");
  EXPECT_EQ(Msa({"bench", "--operation", "add", "--corpus", corpus}), 5);
  EXPECT_THAT(err_, HasSubstr(corpus + ":2: a JSON object is expected"));
}

TEST_F(EvalTest, BenchGivesPercentilesOfEveryOperation) {
  Msa({"add", corpus_});
  for (const std::string operation : {"ask", "retrieve"}) {
    ASSERT_EQ(Msa({"bench", "--json", "--operation", operation, "--questions", questions_,
                   "--requests", "20", "--concurrency", "4"}),
              0)
        << err_;
    EXPECT_EQ(OutLines()[0]["operation"], operation);
    EXPECT_EQ(OutLines()[0]["requests"], 20);
    EXPECT_TRUE(OutLines()[0]["latency_ms"].contains("p99"));
  }
  ASSERT_EQ(Msa({"bench", "--questions", questions_, "--requests", "1", "--read-together"}), 0);
  EXPECT_TRUE(service_.last_generate().read_together);
  ASSERT_EQ(Msa({"bench", "--json", "--operation", "add", "--corpus", corpus_}), 0) << err_;
  EXPECT_EQ(OutLines()[0]["requests"], 3);
  Msa({"bank", "ls", "--json"});
  EXPECT_EQ(OutLines().size(), 1u) << "the bank it added to must be gone";
  EXPECT_EQ(Msa({"bench", "--operation", "ask"}), 2);
}

}  // namespace
}  // namespace msa::cli

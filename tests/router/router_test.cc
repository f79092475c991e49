#include "router/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "common/limits.h"
#include "tests/router/fake_cluster.h"

namespace msa::router {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

// Everything a session shows, as text: compared between layouts.
std::string Transcript(FakeCluster& cluster) {
  std::string text;
  for (const char* question : {"first", "second", "a third one"}) {
    rpc::GenerateRequest request;
    request.bank = "default";
    request.question = question;
    request.top_k = 12;
    const absl::Status status =
        cluster.router->Generate(cluster.ctx, request, [&](const rpc::GenerateEvent& event) {
          if (const auto* routing = std::get_if<rpc::RoutingEvent>(&event)) {
            for (const auto& layer : routing->layers) {
              for (const auto& part : layer.parts) {
                absl::StrAppend(&text, layer.layer, ":", part.reference, "=", part.score, " ");
              }
            }
            for (const auto& document : routing->documents) {
              absl::StrAppend(&text, document.document_id, "#", document.part_index, "@",
                              document.span.begin, "=", document.score, " ");
            }
          }
          if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) {
            absl::StrAppend(&text, done->answer, "\n");
          }
          return true;
        });
    EXPECT_TRUE(status.ok()) << status;
  }
  std::string token;
  do {
    const auto page = cluster.router->ListDocuments(cluster.ctx, "default", 7, token);
    EXPECT_TRUE(page.ok()) << page.status();
    for (const auto& info : page->documents) absl::StrAppend(&text, info.id, ",");
    token = page->next_page_token;
  } while (!token.empty());
  return text;
}

TEST(Router, AnyNumberOfShardsGivesTheSameAnswers) {
  std::string one;
  for (int shards : {1, 2, 3, 16}) {
    FakeCluster cluster(shards, 2);
    cluster.Add(SomeDocuments(60));
    const auto deleted =
        cluster.router->DeleteDocuments(cluster.ctx, "default", {"doc-7", "doc-31"});
    ASSERT_TRUE(deleted.ok());
    const std::string transcript = Transcript(cluster);
    if (shards == 1) one = transcript;
    EXPECT_EQ(transcript, one) << shards << " shards";
    EXPECT_EQ(transcript.find("doc-31,"), std::string::npos);
    for (auto& shard : cluster.shards) EXPECT_EQ(shard.open_snapshots(), 0u);
  }
  EXPECT_GT(one.size(), 1000u);
}

TEST(Router, PagesAreInBytewiseOrderAndComplete) {
  FakeCluster cluster(3);
  std::vector<rpc::NewDocument> documents = SomeDocuments(25);
  documents[3].id = "é";
  documents[4].id = "Z";
  cluster.Add(documents);
  std::vector<std::string> ids, expected;
  for (const auto& document : documents) expected.push_back(document.id);
  std::sort(expected.begin(), expected.end());
  std::string token;
  int pages = 0;
  do {
    const auto page = cluster.router->ListDocuments(cluster.ctx, "default", 5, token);
    ASSERT_TRUE(page.ok());
    EXPECT_LE(page->documents.size(), 5u);
    for (const auto& info : page->documents) ids.push_back(info.id);
    token = page->next_page_token;
    ++pages;
  } while (!token.empty());
  EXPECT_EQ(ids, expected);
  EXPECT_EQ(pages, 5);
  EXPECT_EQ(cluster.router->ListDocuments(cluster.ctx, "default", 5, "%").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.router->ListDocuments(cluster.ctx, "default", -1, "").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Router, DeletesReportEachId) {
  FakeCluster cluster(3);
  cluster.Add(SomeDocuments(10));
  const auto results =
      cluster.router->DeleteDocuments(cluster.ctx, "default", {"doc-1", "nothere", "", "doc-2"});
  ASSERT_TRUE(results.ok());
  EXPECT_EQ(results->at(0).revision, 1u);
  EXPECT_EQ(results->at(1).status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(results->at(2).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(results->at(3).status.ok());
  EXPECT_EQ(cluster.router->GetDocument(cluster.ctx, "default", "doc-1").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(cluster.router->GetDocument(cluster.ctx, "default", "doc-3")->info.id, "doc-3");
  EXPECT_EQ(cluster.router->DeleteDocuments(cluster.ctx, "none", {"a"}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Router, ManyDeletesTakeACallForSomeHundredIds) {
  FakeCluster cluster(2);
  cluster.Add(SomeDocuments(600));
  std::vector<std::string> ids;
  for (int i = 0; i < 600; ++i) ids.push_back(absl::StrCat("doc-", i));
  std::atomic<int> calls = 0;
  for (auto& shard : cluster.shards) {
    shard.before = [&](const std::string& method, const rpc::CallContext&) {
      calls += method == "DeleteDocuments";
      return absl::OkStatus();
    };
  }
  const auto results = cluster.router->DeleteDocuments(cluster.ctx, "default", ids);
  ASSERT_TRUE(results.ok());
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(results->at(i).id, ids[i]);
    EXPECT_EQ(results->at(i).revision, 1u) << results->at(i).status;
  }
  // About 300 ids a shard, at most 256 a call.
  EXPECT_EQ(calls, 4);
}

TEST(Router, DeletesOnADeadShardNameItAndAskItOnce) {
  FakeCluster cluster(1);
  cluster.Add(SomeDocuments(300));
  int calls = 0;
  cluster.shards[0].before = [&](const std::string& method, const rpc::CallContext&) {
    if (method != "DeleteDocuments") return absl::OkStatus();
    ++calls;
    return absl::UnavailableError("connection refused");
  };
  std::vector<std::string> ids;
  for (int i = 0; i < 300; ++i) ids.push_back(absl::StrCat("doc-", i));
  const auto results = cluster.router->DeleteDocuments(cluster.ctx, "default", ids);
  ASSERT_TRUE(results.ok());
  for (const rpc::DeleteResult& result : *results) {
    EXPECT_THAT(MessageOf(result.status), HasSubstr("shard 's0'"));
  }
  EXPECT_EQ(calls, 1);
}

TEST(Router, StatsSayWhichShardIsDown) {
  FakeCluster cluster(2);
  cluster.Add(SomeDocuments(10));
  cluster.shards[1].before = [](const std::string&, const rpc::CallContext&) {
    return absl::UnavailableError("connection refused");
  };
  const auto stats = cluster.router->Stats(cluster.ctx, "default");
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->spec.name, "default");
  EXPECT_TRUE(stats->shards[0].status.ok());
  EXPECT_THAT(MessageOf(stats->shards[1].status), HasSubstr("shard 's1'"));
}

class DeadShard : public ::testing::Test {
 protected:
  DeadShard() : cluster_(3) { cluster_.Add(SomeDocuments(30)); }
  void Kill() {
    cluster_.shards[1].before = [](const std::string&, const rpc::CallContext&) {
      return absl::UnavailableError("connection refused");
    };
  }
  FakeCluster cluster_;
};

TEST_F(DeadShard, FailsTheSessionByName) {
  Kill();
  const absl::Status status = cluster_.router->OpenSession(cluster_.ctx, "default", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(status), HasSubstr("shard 's1'"));
  // What was opened on the others is closed again.
  EXPECT_EQ(cluster_.shards[0].open_snapshots(), 0u);
  EXPECT_EQ(cluster_.shards[2].open_snapshots(), 0u);
}

TEST_F(DeadShard, IsNamedWhenPartialAnswersAreAllowed) {
  Kill();
  const auto session =
      cluster_.router->OpenSession(cluster_.ctx, "default", {.allow_partial = true});
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_THAT(session->missing_shards, ElementsAre("s1"));
  EXPECT_EQ(session->shard_snapshots[1], 0u);
  const auto selection = cluster_.router->Route(cluster_.ctx, session->session_id, 0, 3, 100,
                                                std::vector<float>(8, 0.5f));
  ASSERT_TRUE(selection.ok()) << selection.status();
  EXPECT_THAT(selection->missing_shards, ElementsAre("s1"));
  EXPECT_FALSE(selection->parts.empty());
  for (const auto& part : selection->parts) EXPECT_NE(part.shard, 1);
}

TEST_F(DeadShard, MayDieWithinASession) {
  const auto strict = cluster_.router->OpenSession(cluster_.ctx, "default", {});
  const auto partial =
      cluster_.router->OpenSession(cluster_.ctx, "default", {.allow_partial = true});
  EXPECT_THAT(partial->missing_shards, IsEmpty());
  Kill();
  const std::vector<float> queries(8, 0.5f);
  EXPECT_EQ(
      cluster_.router->Route(cluster_.ctx, strict->session_id, 0, 3, 5, queries).status().code(),
      absl::StatusCode::kUnavailable);
  const auto selection =
      cluster_.router->Route(cluster_.ctx, partial->session_id, 0, 3, 5, queries);
  ASSERT_TRUE(selection.ok());
  EXPECT_THAT(selection->missing_shards, ElementsAre("s1"));
}

TEST_F(DeadShard, MayBeRestartedWithinASession) {
  const auto strict = cluster_.router->OpenSession(cluster_.ctx, "default", {});
  const auto partial =
      cluster_.router->OpenSession(cluster_.ctx, "default", {.allow_partial = true});
  // It is there again, and has none of its snapshots.
  for (const auto& session : {strict, partial}) {
    ASSERT_TRUE(cluster_.shards[1].CloseSnapshot(cluster_.ctx, session->shard_snapshots[1]).ok());
  }
  const std::vector<float> queries(8, 0.5f);
  const absl::Status status =
      cluster_.router->Route(cluster_.ctx, strict->session_id, 0, 3, 5, queries).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("shard 's1'"), HasSubstr("ask again")));
  const auto selection =
      cluster_.router->Route(cluster_.ctx, partial->session_id, 0, 3, 5, queries);
  ASSERT_TRUE(selection.ok()) << selection.status();
  EXPECT_THAT(selection->missing_shards, ElementsAre("s1"));
}

TEST_F(DeadShard, ThatHangsIsNamedBeforeTheDeadline) {
  cluster_.shards[1].before = [](const std::string&, const rpc::CallContext& ctx) {
    return testing::HangUntilDeadline(ctx);
  };
  rpc::CallContext ctx;
  ctx.deadline = absl::Now() + absl::Milliseconds(500);
  const absl::Status status = cluster_.router->OpenSession(ctx, "default", {}).status();
  EXPECT_LT(absl::Now(), ctx.deadline);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("shard 's1' did not answer in time"));
}

TEST(Sessions, AreBoundedAndExpire) {
  absl::Time now = absl::UnixEpoch();
  RouterOptions options;
  options.max_sessions = 2;
  options.session_ttl = absl::Minutes(10);
  options.clock = [&now] { return now; };
  FakeCluster cluster(1, 1, options);
  cluster.Add(SomeDocuments(2));
  const auto open = [&] { return cluster.router->OpenSession(cluster.ctx, "default", {}); };
  const auto first = open();
  now += absl::Minutes(6);
  ASSERT_TRUE(open().ok());
  EXPECT_EQ(open().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(cluster.shards[0].open_snapshots(), 2u);
  now += absl::Minutes(6);  // the first has expired, the second has not
  EXPECT_EQ(cluster.router->GetParts(cluster.ctx, first->session_id, {0}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(open().ok());
  EXPECT_EQ(open().status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(Sessions, RefuseWhatDoesNotFit) {
  FakeCluster cluster(2);
  cluster.Add(SomeDocuments(4));
  const auto session = cluster.router->OpenSession(cluster.ctx, "default", {});
  ASSERT_TRUE(session.ok());
  EXPECT_GT(session->num_parts, 0);
  const auto code = [&](int top_k, size_t floats) {
    return cluster.router
        ->Route(cluster.ctx, session->session_id, 0, 3, top_k, std::vector<float>(floats))
        .status()
        .code();
  };
  EXPECT_EQ(code(1, 8), absl::StatusCode::kOk);
  EXPECT_EQ(code(0, 8), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kMaxTopK + 1, 8), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(1, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(1, 9), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(1, 8 * (kMaxQueryTokens + 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.router->Rank(cluster.ctx, session->session_id, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.router->OpenSession(cluster.ctx, "none", {}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(cluster.router->CloseSession(cluster.ctx, session->session_id).ok());
  EXPECT_EQ(code(1, 8), absl::StatusCode::kFailedPrecondition);
}

// As routers of earlier releases gave them, each from its memory.
TEST(Sessions, FailWhereTwoDocumentsHaveOneNumber) {
  FakeCluster cluster(2);
  const std::vector<rpc::NewDocument> documents = SomeDocuments(20);
  cluster.Add({documents[0]});  // makes the bank, and takes number 0
  const rpc::BankSpec bank = cluster.router->ListBanks(cluster.ctx)->front();
  const int first = cluster.map.ShardOf(documents[1].id);
  const auto other =
      std::find_if(documents.begin() + 2, documents.end(),
                   [&](const auto& document) { return cluster.map.ShardOf(document.id) != first; });
  ASSERT_NE(other, documents.end());
  for (const auto& [document, shard] : {std::pair(documents[1], first), {*other, 1 - first}}) {
    rpc::EncodeRequest request;
    request.bank = bank;
    request.shard = shard;
    request.document = document;
    request.parts = {{0, document.FullText().size()}};
    request.first_reference = 1;
    ASSERT_TRUE(cluster.nodes[0]->EncodeDocument(cluster.ctx, request).ok());
  }
  const auto session = cluster.router->OpenSession(cluster.ctx, "default", {});
  ASSERT_TRUE(session.ok());
  const auto fails = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_NE(status.message().find("the same reference 1"), std::string::npos) << status;
  };
  fails(
      cluster.router->Route(cluster.ctx, session->session_id, 0, 3, 16, std::vector<float>(8, 1.0f))
          .status());
  fails(cluster.router->GetParts(cluster.ctx, session->session_id, {1}).status());
  EXPECT_TRUE(cluster.router->GetParts(cluster.ctx, session->session_id, {0, 0}).ok());
}

TEST(Generate, AnotherNodeAnswersWhenOneIsDown) {
  FakeCluster cluster(1, 2);
  cluster.Add(SomeDocuments(5));
  cluster.nodes[0]->before = [](const std::string&, const rpc::CallContext&) {
    return absl::UnavailableError("connection refused");
  };
  rpc::GenerateRequest request;
  request.question = "q";
  for (int i = 0; i < 4; ++i) {
    int events = 0;
    EXPECT_TRUE(cluster.router
                    ->Generate(cluster.ctx, request,
                               [&](const rpc::GenerateEvent&) { return ++events > 0; })
                    .ok());
    EXPECT_GT(events, 0);
  }
}

TEST(Generate, ANodeOfAnotherModelIsPassedOver) {
  FakeCluster cluster(1, 2);
  cluster.Add(SomeDocuments(5));
  const auto ask = [&] {
    rpc::GenerateRequest request;
    request.question = "q";
    return cluster.router->Generate(cluster.ctx, request,
                                    [](const rpc::GenerateEvent&) { return true; });
  };
  const auto fails_with = [](const absl::Status& status) {
    return [status](const std::string&, const rpc::CallContext&) { return status; };
  };
  const auto runs = [](const std::string& model) {
    return rpc::AboutNode(absl::FailedPreconditionError("runs " + model));
  };
  cluster.nodes[1]->before = fails_with(runs("b"));
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(ask().ok());
  // What is not about the node is not asked of another, whatever its words.
  const auto no_codes = absl::FailedPreconditionError("this node's bank has no codes");
  cluster.nodes[0]->before = fails_with(no_codes);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(ask(), no_codes);
  // None fits: both are named.
  cluster.nodes[0]->before = fails_with(runs("a"));
  absl::Status none = ask();
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(MessageOf(none), HasSubstr("compute node 'c0': runs a"));
  EXPECT_THAT(MessageOf(none), HasSubstr("compute node 'c1': runs b"));
  // One that is down may be the one that fits.
  cluster.nodes[0]->before = fails_with(absl::UnavailableError("connection refused"));
  for (int i = 0; i < 2; ++i) {
    none = ask();
    EXPECT_EQ(none.code(), absl::StatusCode::kUnavailable) << none;
    EXPECT_THAT(MessageOf(none), HasSubstr("compute node 'c0': connection refused"));
    EXPECT_THAT(MessageOf(none), HasSubstr("compute node 'c1': runs b"));
  }
}

TEST(Generate, IsNotTriedAgainForAShardThatIsDown) {
  FakeCluster cluster(1, 3);
  cluster.Add(SomeDocuments(5));
  int calls = 0;
  for (auto& node : cluster.nodes) {
    node->before = [&](const std::string& method, const rpc::CallContext&) {
      calls += method == "Generate";
      return absl::UnavailableError("compute node 'c1' (node:2): shard 's0': connection refused");
    };
  }
  rpc::GenerateRequest request;
  request.question = "q";
  const absl::Status status = cluster.router->Generate(
      cluster.ctx, request, [](const rpc::GenerateEvent&) { return true; });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(status), HasSubstr("shard 's0'"));
  EXPECT_EQ(calls, 1);
}

TEST(Generate, IsNotBegunAgainAfterAnEvent) {
  FakeCluster cluster(1, 2);
  cluster.Add(SomeDocuments(5));
  for (auto& node : cluster.nodes) {
    node->midway = [](const rpc::CallContext&) { return absl::UnavailableError("node died"); };
  }
  rpc::GenerateRequest request;
  request.question = "q";
  int routings = 0;
  const absl::Status status =
      cluster.router->Generate(cluster.ctx, request, [&](const rpc::GenerateEvent& event) {
        routings += std::holds_alternative<rpc::RoutingEvent>(event);
        return true;
      });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(status), HasSubstr("compute node 'c"));
  EXPECT_EQ(routings, 1);
}

TEST(Generate, LoadIsSpread) {
  FakeCluster cluster(1, 3);
  cluster.Add(SomeDocuments(5));
  std::vector<int> calls(3);
  for (int i = 0; i < 3; ++i) {
    cluster.nodes[i]->before = [&calls, i](const std::string&, const rpc::CallContext&) {
      ++calls[i];
      return absl::OkStatus();
    };
  }
  rpc::RetrieveRequest request;
  request.question = "q";
  request.limit = 3;
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(cluster.router->Retrieve(cluster.ctx, request).ok());
  EXPECT_THAT(calls, ElementsAre(3, 3, 3));
}

TEST(Generate, BadRequestsNeverReachANode) {
  FakeCluster cluster(1);
  int calls = 0;
  cluster.nodes[0]->before = [&](const std::string&, const rpc::CallContext&) {
    ++calls;
    return absl::OkStatus();
  };
  rpc::GenerateRequest request;
  EXPECT_EQ(cluster.router->Generate(cluster.ctx, request, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.router->Retrieve(cluster.ctx, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace msa::router

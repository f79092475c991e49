#include "router/ingest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "tests/router/fake_cluster.h"

namespace msa::router {
namespace {

using ::testing::HasSubstr;

std::map<int64_t, std::string> ReferencesOf(FakeCluster& cluster, const std::string& bank) {
  std::map<int64_t, std::string> references;
  for (auto& shard : cluster.shards) {
    const auto documents = shard.ListDocuments(cluster.ctx, bank, "", 100000);
    for (const auto& info : *documents) {
      for (const auto& part : info.parts) references[part.reference] = info.id;
    }
  }
  return references;
}

TEST(Ingest, ReportsInOrderAndNumbersInOrder) {
  FakeCluster cluster(3, 2);
  const auto documents = SomeDocuments(200);
  const auto results = cluster.Add(documents);
  ASSERT_EQ(results.size(), documents.size());
  for (size_t i = 0; i < results.size(); ++i) {
    ASSERT_TRUE(results[i].status.ok()) << results[i].status;
    EXPECT_EQ(results[i].index, i);
    EXPECT_EQ(results[i].id, documents[i].id);
    EXPECT_EQ(results[i].put.revision, 1u);
  }
  // Numbers 0, 1, 2, … without gaps, in the order of the stream.
  std::vector<std::string> order;
  int64_t expected = 0;
  for (const auto& [reference, id] : ReferencesOf(cluster, "default")) {
    EXPECT_EQ(reference, expected++);
    if (order.empty() || order.back() != id) order.push_back(id);
  }
  ASSERT_EQ(order.size(), documents.size());
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], documents[i].id);
}

TEST(Ingest, NumbersGoOnAfterTheLargestOfAllShards) {
  FakeCluster first(4);
  first.Add(SomeDocuments(10));
  const int64_t next = ReferencesOf(first, "default").rbegin()->first + 1;
  // Another router over the same shards: as after a restart.
  Router again(first.map, first.pointers, {first.nodes[0].get()});
  first.router->AddComputeNode("unused", first.nodes[0].get());
  bool sent = false;
  ASSERT_TRUE(again
                  .AddDocuments(
                      first.ctx, "default",
                      [&]() -> std::optional<rpc::NewDocument> {
                        if (std::exchange(sent, true)) return std::nullopt;
                        return rpc::NewDocument{"late", "", "text", ""};
                      },
                      [](const rpc::AddResult& result) { return result.status.ok(); })
                  .ok());
  EXPECT_EQ(ReferencesOf(first, "default").rbegin()->first, next);
}

// Another router's stream in the midst of each of this one's documents: every number is one
// document's, and both routers find all.
TEST(Ingest, TwoRoutersAddAtOnce) {
  FakeCluster cluster(3);
  testing::FakeComputeNode node(cluster.pointers);
  Router second(cluster.map, cluster.pointers, {&node});
  node.router = &second;
  const auto documents = SomeDocuments(200);
  const auto add = [&](Router& router, size_t begin, size_t end,
                       const std::function<void(size_t)>& meanwhile) {
    absl::Status status;
    const auto results =
        AddTo(router, cluster.ctx, {documents.begin() + begin, documents.begin() + end}, "default",
              &status, meanwhile);
    for (const auto& result : results) EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(results.size(), end - begin);
    EXPECT_TRUE(status.ok()) << status;
  };
  add(*cluster.router, 0, 100, [&](size_t i) { add(second, 100 + i, 101 + i, [](size_t) {}); });

  std::map<int64_t, std::string> numbers;
  for (Router* router : {cluster.router.get(), &second}) {
    const auto page = router->ListDocuments(cluster.ctx, "default", 1000, "");
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_EQ(page->documents.size(), 200u);
    for (const rpc::DocumentInfo& document : page->documents) {
      for (const rpc::PartInfo& part : document.parts) {
        EXPECT_EQ(numbers.try_emplace(part.reference, document.id).first->second, document.id);
      }
    }
    rpc::RetrieveRequest request;
    request.question = "one";
    request.limit = 200;
    const auto found = router->Retrieve(cluster.ctx, request);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->documents.size(), 200u);
  }
}

// A router that adds much does not ask a shard for every document; one that dies leaves few unused.
TEST(Ingest, TakesNumbersManyAtOnce) {
  FakeCluster cluster(2);
  std::atomic<int> asked = 0;
  for (auto& shard : cluster.shards) {
    shard.before = [&](const std::string& method, const rpc::CallContext&) {
      asked += method == "TakeReferences";
      return absl::OkStatus();
    };
  }
  cluster.Add(SomeDocuments(2000));
  EXPECT_LE(asked, 2000 / 8);
  const auto used = static_cast<int64_t>(ReferencesOf(cluster, "default").size());
  EXPECT_EQ(ReferencesOf(cluster, "default").rbegin()->first, used - 1);
  const uint64_t uid = cluster.router->ListBanks(cluster.ctx)->front().uid;
  EXPECT_LE(*cluster.shards[0].TakeReferences({}, "default", uid, 0, 1), used + used / 32);
}

// Shards that came back with an older copy of their data, say: what a router gave it does not give
// again.
TEST(Ingest, GivesNoNumberAgainThatShardsHaveForgotten) {
  FakeCluster cluster(2);
  cluster.Add(SomeDocuments(20));
  const int64_t given = ReferencesOf(cluster, "default").rbegin()->first;
  const rpc::BankSpec bank = cluster.router->ListBanks(cluster.ctx)->front();
  for (auto& shard : cluster.shards) {
    shard.ForgetAll();
    ASSERT_TRUE(shard.CreateBank(cluster.ctx, bank).ok());
  }
  cluster.Add({{"new", "", "text", ""}});
  EXPECT_EQ(ReferencesOf(cluster, "default"), (std::map<int64_t, std::string>{{given + 1, "new"}}));
}

// A stream goes on while another router deletes its bank and makes it anew: the new one keeps its
// numbers.
TEST(Ingest, TakesNoNumbersOfABankThatWasMadeAnew) {
  FakeCluster cluster(2);
  testing::FakeComputeNode node(cluster.pointers);
  Router second(cluster.map, cluster.pointers, {&node});
  absl::Status status;
  const auto results =
      AddTo(*cluster.router, cluster.ctx, SomeDocuments(40), "default", &status, [&](size_t place) {
        if (place != 20) return;
        EXPECT_TRUE(second.DeleteBank(cluster.ctx, "default").ok());
        EXPECT_TRUE(second.CreateBank(cluster.ctx, "default", {}).ok());
      });
  EXPECT_TRUE(status.ok()) << status;
  ASSERT_EQ(results.size(), 40u);
  EXPECT_EQ(results.back().status.code(), absl::StatusCode::kFailedPrecondition)
      << results.back().status;
  cluster.Add({{"new", "", "text", ""}});
  EXPECT_EQ(ReferencesOf(cluster, "default"), (std::map<int64_t, std::string>{{0, "new"}}));
}

class MisnumberingShard : public testing::FakeShard {
 public:
  absl::StatusOr<int64_t> TakeReferences(const rpc::CallContext& ctx, const std::string& bank,
                                         uint64_t bank_uid, int64_t at_least,
                                         int64_t count) override {
    if (answer) return *answer;
    return FakeShard::TakeReferences(ctx, bank, bank_uid, at_least, count);
  }
  std::optional<int64_t> answer;
};

TEST(Ingest, TakesNoNumbersThatItHasNotAskedFor) {
  FakeCluster cluster(2);
  MisnumberingShard first;
  const std::vector<rpc::MemoryShard*> shards = {&first, &cluster.shards[1]};
  testing::FakeComputeNode node(shards);
  Router router(cluster.map, shards, {&node});
  const auto add = [&](const std::string& id) {
    return AddTo(router, cluster.ctx, {{id, "", "text", ""}}).at(0).status;
  };
  first.answer = -1;
  EXPECT_EQ(add("a").code(), absl::StatusCode::kInternal);
  first.answer.reset();
  for (const char* id : {"a", "b"}) EXPECT_TRUE(add(id).ok());
  // None, a document's, and some that end past int64.
  for (int64_t answer : {int64_t{0}, int64_t{1}, std::numeric_limits<int64_t>::max()}) {
    first.answer = answer;
    const absl::Status status = add("c");
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << answer << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("shard 's0' gave reference numbers"));
  }
  first.answer.reset();
  EXPECT_TRUE(add("c").ok());
  EXPECT_EQ(router.ListDocuments(cluster.ctx, "default", 10, "")->documents.size(), 3u);
}

TEST(Ingest, WhoWaitsForAnothersNumbersHasADeadline) {
  FakeCluster cluster(2);
  ASSERT_TRUE(cluster.router->CreateBank(cluster.ctx, "b", {}).ok());
  absl::Notification entered, over;
  std::atomic<bool> hangs = true;
  cluster.shards[0].before = [&](const std::string& method, const rpc::CallContext&) {
    if (method != "TakeReferences" || entered.HasBeenNotified()) return absl::OkStatus();
    entered.Notify();
    over.WaitForNotificationWithTimeout(absl::Seconds(5));
    hangs = false;
    return absl::OkStatus();
  };
  const auto add = [&](const rpc::CallContext& context, const std::string& id) {
    return AddTo(*cluster.router, context, {{id, "", "text", ""}}, "b").at(0).status;
  };
  std::thread slow([&] { EXPECT_TRUE(add(cluster.ctx, "slow").ok()); });
  entered.WaitForNotification();
  rpc::CallContext brief;
  brief.deadline = absl::Now() + absl::Milliseconds(200);
  EXPECT_EQ(add(brief, "brief").code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(hangs) << "it waited for the other's answer";
  over.Notify();
  slow.join();
}

TEST(Ingest, WhoeverGivesNumbersIsNamedWhereItIsDown) {
  FakeCluster cluster(2);
  cluster.Add(SomeDocuments(1));
  const int64_t next = ReferencesOf(cluster, "default").rbegin()->first + 1;
  int failures = 2;
  cluster.shards[0].before = [&](const std::string& method, const rpc::CallContext&) {
    return method == "TakeReferences" && failures-- > 0 ? absl::UnavailableError("socket closed")
                                                        : absl::OkStatus();
  };
  const auto results = cluster.Add({{"a", "", "text", ""}, {"b", "", "b", ""}, {"c", "", "c", ""}});
  ASSERT_EQ(results.size(), 3u);
  for (int i : {0, 1}) {
    EXPECT_EQ(results[i].status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(results[i].status.message()), HasSubstr("shard 's0'"));
  }
  EXPECT_TRUE(results[2].status.ok()) << results[2].status;
  EXPECT_EQ(ReferencesOf(cluster, "default")[next], "c");
}

TEST(Ingest, RefusesItemByItem) {
  FakeCluster cluster(2);
  std::vector<rpc::NewDocument> documents = SomeDocuments(6);
  documents[1].id = "";
  documents[2].text = "\xFF";
  documents[3].id = "doc-0";
  documents[4].metadata = "[]";
  const auto results = cluster.Add(documents);
  ASSERT_EQ(results.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(results[i].index, i);
    EXPECT_EQ(results[i].status.ok(), i == 0 || i == 5) << i << results[i].status;
  }
  EXPECT_THAT(std::string(results[3].status.message()), HasSubstr("came earlier in this stream"));
  // The refused ones took no number: document 5 follows document 0.
  const auto references = ReferencesOf(cluster, "default");
  EXPECT_EQ(references.begin()->second, "doc-0");
  EXPECT_EQ(references.rbegin()->first + 1, static_cast<int64_t>(references.size()));
}

TEST(Ingest, ReplacesInALaterStream) {
  FakeCluster cluster(2);
  cluster.Add(SomeDocuments(3));
  const auto results = cluster.Add(SomeDocuments(3));
  for (const auto& result : results) EXPECT_EQ(result.put.revision, 2u);
}

TEST(Ingest, UnknownBankAndWrongModelEndTheStream) {
  FakeCluster cluster(2);
  absl::Status stream;
  EXPECT_TRUE(cluster.Add(SomeDocuments(1), "none", &stream).empty());
  EXPECT_EQ(stream.code(), absl::StatusCode::kNotFound);
  cluster.Add(SomeDocuments(1));
  cluster.nodes[0]->model.fingerprint = "another";
  cluster.nodes[0]->model.name = "newer";
  EXPECT_TRUE(cluster.Add(SomeDocuments(1), "default", &stream).empty());
  EXPECT_EQ(stream.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stream.message()), HasSubstr("was made by the model fake"));
}

// Its tokens end elsewhere, too: it does not even split.
TEST(Ingest, ANodeOfAnotherModelIsPassedOver) {
  FakeCluster cluster(2, 2);
  cluster.Add(SomeDocuments(1));
  cluster.nodes[1]->model.fingerprint = "another";
  std::atomic<int> asked = 0;
  cluster.nodes[1]->before = [&](const std::string& method, const rpc::CallContext&) {
    if (method == "Info") ++asked;
    EXPECT_EQ(method, "Info");
    return absl::OkStatus();
  };
  const auto results = cluster.Add(SomeDocuments(20));
  ASSERT_EQ(results.size(), 20u);
  for (const auto& result : results) EXPECT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(asked, 1) << "once a stream";
  cluster.nodes[0]->model.fingerprint = "a third";
  absl::Status stream;
  EXPECT_TRUE(cluster.Add(SomeDocuments(1), "default", &stream).empty());
  EXPECT_EQ(stream.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stream.message()), HasSubstr("compute node 'c0': bank 'default'"));
  EXPECT_THAT(std::string(stream.message()), HasSubstr("compute node 'c1': bank 'default'"));
}

TEST(Ingest, ANodeWithOtherWeightsIsPassedOver) {
  FakeCluster cluster(2, 2);
  for (auto& node : cluster.nodes) node->model.default_bank.weights_dtype = DType::kBFloat16;
  cluster.Add(SomeDocuments(1));
  EXPECT_EQ(cluster.router->ListBanks(cluster.ctx)->front().weights_dtype, DType::kBFloat16);
  cluster.nodes[1]->model.default_bank.weights_dtype = DType::kInt8;
  cluster.nodes[1]->before = [](const std::string& method, const rpc::CallContext&) {
    EXPECT_EQ(method, "Info");
    return absl::OkStatus();
  };
  for (const auto& result : cluster.Add(SomeDocuments(9))) EXPECT_TRUE(result.status.ok());
  cluster.nodes[0]->model.default_bank.weights_dtype = DType::kFloat32;
  absl::Status stream;
  EXPECT_TRUE(cluster.Add(SomeDocuments(1), "default", &stream).empty());
  EXPECT_EQ(stream.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stream.message()),
              HasSubstr("weights in bf16, this node has them in f32"));
}

TEST(Ingest, ADeadNodesWorkGoesToAnother) {
  FakeCluster cluster(2, 2);
  std::atomic<int> failed = 0;
  cluster.nodes[0]->before = [&](const std::string& method, const rpc::CallContext&) {
    if (method != "EncodeDocument") return absl::OkStatus();
    ++failed;
    return absl::UnavailableError("socket closed");
  };
  for (const auto& result : cluster.Add(SomeDocuments(20))) EXPECT_TRUE(result.status.ok());
  EXPECT_GT(failed, 0);
}

TEST(Ingest, NoNodeLeftIsUnavailableByName) {
  FakeCluster cluster(1, 2);
  cluster.Add(SomeDocuments(1));
  for (auto& node : cluster.nodes) {
    node->before = [](const std::string& method, const rpc::CallContext&) {
      return method == "EncodeDocument" ? absl::UnavailableError("socket closed")
                                        : absl::OkStatus();
    };
  }
  const auto results = cluster.Add(SomeDocuments(2));
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[1].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(results[1].status.message()), HasSubstr("compute node 'c"));
}

// Results come while the client still thinks about its next document.
TEST(Ingest, ReportsWithoutWaitingForTheNextDocument) {
  FakeCluster cluster(1);
  absl::Notification reported;
  int sent = 0;
  const absl::Status status = cluster.router->AddDocuments(
      cluster.ctx, "default",
      [&]() -> std::optional<rpc::NewDocument> {
        if (sent++ == 0) return rpc::NewDocument{"a", "", "text", ""};
        EXPECT_TRUE(reported.WaitForNotificationWithTimeout(absl::Seconds(60)));
        return std::nullopt;
      },
      [&](const rpc::AddResult&) {
        reported.Notify();
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
}

// As many of them as documents are encoded at once, and more of their documents are ready.
TEST(Ingest, ClientsThatDoNotReadHoldNobodyElseUp) {
  RouterOptions options;
  options.encode_threads = options.encode_threads_if_short = 2;
  FakeCluster cluster(1, 1, options);
  absl::Notification read;
  std::vector<std::thread> slow;
  for (const char* name : {"a", "b"}) {
    absl::Notification blocked;
    slow.emplace_back([&cluster, &read, &blocked, name] {
      int sent = 0;
      bool first = true;
      const absl::Status status = cluster.router->AddDocuments(
          cluster.ctx, "default",
          [&]() -> std::optional<rpc::NewDocument> {
            if (sent == 6) return std::nullopt;
            return rpc::NewDocument{absl::StrCat(name, sent++), "", "text", ""};
          },
          [&](const rpc::AddResult&) {
            if (std::exchange(first, false)) blocked.Notify();
            read.WaitForNotification();
            return true;
          });
      EXPECT_TRUE(status.ok()) << status;
    });
    blocked.WaitForNotification();
  }
  EXPECT_EQ(cluster.Add(SomeDocuments(20)).size(), 20u);
  read.Notify();
  for (std::thread& each : slow) each.join();
}

TEST(Ingest, StopsWhenTheClientWantsNoMore) {
  FakeCluster cluster(1);
  int sent = 0;
  const absl::Status status = cluster.router->AddDocuments(
      cluster.ctx, "default",
      [&]() -> std::optional<rpc::NewDocument> {
        if (sent == 1000) return std::nullopt;
        return rpc::NewDocument{absl::StrCat("d", sent++), "", "text", ""};
      },
      [](const rpc::AddResult&) { return false; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_LT(sent, 1000);
}

// Never more documents in work than the window.
TEST(Ingest, WorksWithinItsWindow) {
  RouterOptions options;
  options.encode_threads = 16;
  options.encode_window = 3;
  FakeCluster cluster(1, 1, options);
  std::atomic<int> running = 0, most = 0;
  cluster.nodes[0]->before = [&](const std::string& method, const rpc::CallContext&) {
    if (method == "EncodeDocument") {
      const int now = ++running;
      int seen = most;
      while (seen < now && !most.compare_exchange_weak(seen, now)) {
      }
      std::this_thread::yield();
      --running;
    }
    return absl::OkStatus();
  };
  EXPECT_EQ(cluster.Add(SomeDocuments(300)).size(), 300u);
  EXPECT_LE(most, 3);
}

}  // namespace
}  // namespace msa::router

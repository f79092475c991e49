#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "tests/router/fake_cluster.h"

namespace msa::router {
namespace {

using ::testing::HasSubstr;

void AddAll(Router& router, const rpc::CallContext& context,
            const std::vector<rpc::NewDocument>& documents, const std::string& bank) {
  absl::Status stream;
  for (const auto& result : AddTo(router, context, documents, bank, &stream)) {
    EXPECT_TRUE(result.status.ok()) << result.status;
  }
  EXPECT_TRUE(stream.ok()) << context.request_id << ": " << stream;
}

void ExpectDocuments(Router& router, const std::string& bank, size_t count) {
  const auto page = router.ListDocuments({}, bank, 100, "");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->documents.size(), count);
}

// Shards know the call by its request id, "first".
absl::StatusCode CreateAsFirst(FakeCluster& cluster) {
  rpc::CallContext first;
  first.request_id = "first";
  return cluster.router->CreateBank(first, "b", {}).status().code();
}

TEST(Banks, ABankIsTheSameOnEveryShard) {
  FakeCluster cluster(3);
  rpc::BankOptions options;
  options.part_tokens = 100;
  const auto made = cluster.router->CreateBank(cluster.ctx, "b", options);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_NE(made->uid, 0u);
  EXPECT_EQ(made->part_tokens, 100);
  EXPECT_EQ(made->model_fingerprint, cluster.nodes[0]->model.fingerprint);
  for (auto& shard : cluster.shards) {
    const auto banks = shard.ListBanks(cluster.ctx);
    ASSERT_EQ(banks->size(), 1u);
    EXPECT_EQ(banks->front().spec, *made);
  }
  EXPECT_EQ(cluster.router->CreateBank(cluster.ctx, "b", {}).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(cluster.router->ListBanks(cluster.ctx)->size(), 1u);
  EXPECT_TRUE(cluster.router->DeleteBank(cluster.ctx, "b").ok());
  EXPECT_EQ(cluster.router->DeleteBank(cluster.ctx, "b").code(), absl::StatusCode::kNotFound);
}

TEST(Banks, PartsWithoutRoomForTextAreRefusedBeforeAnythingIsMade) {
  FakeCluster cluster(2);
  for (const auto& node : cluster.nodes) {
    node->before = [](const std::string& method, const rpc::CallContext&) {
      return method == "SplitDocument" ? absl::InvalidArgumentError("part_tokens 10 leaves no room")
                                       : absl::OkStatus();
    };
  }
  rpc::BankOptions options;
  options.part_tokens = 10;
  EXPECT_EQ(cluster.router->CreateBank(cluster.ctx, "b", options).status(),
            absl::InvalidArgumentError("part_tokens 10 leaves no room"));
  EXPECT_TRUE(cluster.router->ListBanks(cluster.ctx)->empty());
}

TEST(Banks, AFailedCreationLeavesNothing) {
  FakeCluster cluster(3);
  cluster.shards[1].before = [](const std::string& method, const rpc::CallContext&) {
    return method == "CreateBank" ? absl::ResourceExhaustedError("disk full") : absl::OkStatus();
  };
  EXPECT_EQ(cluster.router->CreateBank(cluster.ctx, "b", {}).status().code(),
            absl::StatusCode::kResourceExhausted);
  for (auto& shard : cluster.shards) EXPECT_TRUE(shard.ListBanks(cluster.ctx)->empty());
}

// A shard may not know what weights a bank has; who does is believed.
TEST(Banks, WeightsThatAShardDoesNotSayAreTheOthers) {
  for (int silent : {0, 1}) {
    FakeCluster cluster(3);
    for (int shard = 0; shard < 2; ++shard) {
      rpc::BankSpec spec = testing::TestBankSpec();
      spec.name = kDefaultBank;
      spec.uid = 5;
      if (shard != silent) spec.weights_dtype = DType::kInt8;
      ASSERT_TRUE(cluster.shards[shard].CreateBank(cluster.ctx, spec).ok());
    }
    ASSERT_TRUE(cluster.router->Repair(cluster.ctx).ok());
    EXPECT_EQ(cluster.router->ListBanks(cluster.ctx)->front().weights_dtype, DType::kInt8);
    EXPECT_EQ(cluster.shards[2].ListBanks(cluster.ctx)->front().spec.weights_dtype, DType::kInt8);
  }
}

// Both have seen that there is none. One comes first to the first shard; the other would to the
// second.
TEST(Banks, TwoRoutersMakeTheDefaultAtOnce) {
  FakeCluster cluster(2);
  testing::FakeComputeNode node(cluster.pointers);
  Router second(cluster.map, cluster.pointers, {&node});
  absl::Notification second_came;
  const auto wait_for_bank_on = [&](int shard) {
    while (cluster.shards[shard].ListBanks({})->empty()) std::this_thread::yield();
  };
  cluster.shards[0].before = [&](const std::string& method, const rpc::CallContext& context) {
    if (method != "CreateBank") return absl::OkStatus();
    if (context.request_id == "first") {
      second_came.WaitForNotification();
    } else {
      if (!second_came.HasBeenNotified()) second_came.Notify();
      wait_for_bank_on(0);
    }
    return absl::OkStatus();
  };
  cluster.shards[1].before = [&](const std::string& method, const rpc::CallContext& context) {
    if (method == "CreateBank" && context.request_id == "first") wait_for_bank_on(1);
    return absl::OkStatus();
  };
  const auto add = [](Router& router, const std::string& id) {
    rpc::CallContext context;
    context.request_id = id;
    AddAll(router, context, {{id, "", "text", ""}}, "default");
  };
  std::thread other([&] { add(second, "second"); });
  add(*cluster.router, "first");
  other.join();
  ExpectDocuments(second, "default", 2u);
}

// The shard that fails one router serves the other, which makes the bank whole and adds to it.
TEST(Banks, AFailedCreationLeavesWhatAnotherRouterAddedMeanwhile) {
  FakeCluster cluster(3);
  testing::FakeComputeNode node(cluster.pointers);
  Router second(cluster.map, cluster.pointers, {&node});
  const auto documents = SomeDocuments(1);
  cluster.shards[2].before = [&](const std::string& method, const rpc::CallContext& context) {
    if (method != "CreateBank" || context.request_id != "first") return absl::OkStatus();
    while (cluster.shards[1].ListBanks({})->empty()) std::this_thread::yield();
    AddAll(second, cluster.ctx, documents, "b");
    return absl::UnavailableError("the connection was lost");
  };
  EXPECT_EQ(CreateAsFirst(cluster), absl::StatusCode::kUnavailable);
  ExpectDocuments(second, "b", documents.size());
}

// At the last moment before it would be taken back.
TEST(Banks, AFailedCreationLeavesWhatAnotherRouterAddsBeforeItIsTakenBack) {
  FakeCluster cluster(3);
  testing::FakeComputeNode node(cluster.pointers);
  Router second(cluster.map, cluster.pointers, {&node});
  const auto documents = SomeDocuments(9);  // on every shard some
  cluster.shards[2].before = [](const std::string& method, const rpc::CallContext& context) {
    return method == "CreateBank" && context.request_id == "first"
               ? absl::UnavailableError("the connection was lost")
               : absl::OkStatus();
  };
  cluster.shards[0].before = [&](const std::string& method, const rpc::CallContext&) {
    if (method != "DeleteBank" && method != "DeleteUnusedBank") return absl::OkStatus();
    AddAll(second, cluster.ctx, documents, "b");
    return absl::OkStatus();
  };
  EXPECT_EQ(CreateAsFirst(cluster), absl::StatusCode::kUnavailable);
  ExpectDocuments(second, "b", documents.size());
}

// The other router has a number, and its document comes after.
TEST(Banks, AFailedCreationLeavesWhatAnotherRouterIsAddingTo) {
  FakeCluster cluster(2);
  testing::FakeComputeNode node(cluster.pointers);
  Router second(cluster.map, cluster.pointers, {&node});
  absl::Notification encoding, failed;
  std::thread adder;
  node.before = [&](const std::string& method, const rpc::CallContext&) {
    if (method != "EncodeDocument") return absl::OkStatus();
    encoding.Notify();
    failed.WaitForNotification();
    return absl::OkStatus();
  };
  cluster.shards[1].before = [&](const std::string& method, const rpc::CallContext& context) {
    if (method != "CreateBank" || context.request_id != "first") return absl::OkStatus();
    adder = std::thread([&] { AddAll(second, cluster.ctx, SomeDocuments(1), "b"); });
    encoding.WaitForNotification();
    return absl::UnavailableError("the connection was lost");
  };
  EXPECT_EQ(CreateAsFirst(cluster), absl::StatusCode::kUnavailable);
  failed.Notify();
  adder.join();
  ExpectDocuments(second, "b", 1u);
}

TEST(Banks, AFailedCreationLeavesAnothersBankOfTheName) {
  FakeCluster cluster(2);
  rpc::BankSpec other;
  cluster.shards[1].before = [&](const std::string& method, const rpc::CallContext& context) {
    if (method != "CreateBank" || context.request_id != "first") return absl::OkStatus();
    other = cluster.shards[0].ListBanks({})->front().spec;
    ++other.uid;
    EXPECT_TRUE(cluster.shards[0].DeleteBank({}, "b").ok());
    for (auto& shard : cluster.shards) EXPECT_TRUE(shard.CreateBank({}, other).ok());
    return absl::OkStatus();
  };
  EXPECT_EQ(CreateAsFirst(cluster), absl::StatusCode::kAlreadyExists);
  for (auto& shard : cluster.shards) {
    ASSERT_EQ(shard.ListBanks({})->size(), 1u);
    EXPECT_EQ(shard.ListBanks({})->front().spec, other);
  }
}

TEST(Banks, ABankThatSomeShardsLackIsCompleted) {
  FakeCluster cluster(3);
  rpc::BankSpec spec = testing::TestBankSpec();
  spec.name = "b";
  spec.uid = 5;
  ASSERT_TRUE(cluster.shards[2].CreateBank(cluster.ctx, spec).ok());
  ASSERT_TRUE(cluster.router->Repair(cluster.ctx).ok());
  for (auto& shard : cluster.shards) EXPECT_EQ(shard.ListBanks(cluster.ctx)->size(), 1u);
  // The same on use, without Repair.
  spec.name = "c";
  ASSERT_TRUE(cluster.shards[1].CreateBank(cluster.ctx, spec).ok());
  EXPECT_TRUE(cluster.router->OpenSession(cluster.ctx, "c", {}).ok());
  EXPECT_EQ(cluster.shards[0].open_snapshots(), 1u);
}

// What a deletion has left on some shards is not a crash's trace, to be completed.
TEST(Banks, ABankIsNotMadeAgainWhileItIsDeleted) {
  FakeCluster cluster(2);
  ASSERT_TRUE(cluster.router->CreateBank(cluster.ctx, "b", {}).ok());
  absl::Notification first_is_done;
  cluster.shards[1].before = [&](const std::string& method, const rpc::CallContext&) {
    if (method != "DeleteBank") return absl::OkStatus();
    first_is_done.WaitForNotification();
    // Somebody uses the bank now; for as long as it may take it waits for the deletion.
    rpc::CallContext brief;
    brief.deadline = absl::Now() + absl::Milliseconds(50);
    std::thread([&] {
      EXPECT_FALSE(cluster.router->DeleteDocuments(brief, "b", {"x"}).ok());
    }).join();
    return absl::OkStatus();
  };
  std::thread watcher([&] {
    while (!cluster.shards[0].ListBanks(cluster.ctx)->empty()) std::this_thread::yield();
    first_is_done.Notify();
  });
  EXPECT_TRUE(cluster.router->DeleteBank(cluster.ctx, "b").ok());
  watcher.join();
  for (auto& shard : cluster.shards) EXPECT_TRUE(shard.ListBanks(cluster.ctx)->empty());
}

// Made whole again it would answer from what the failed shard still has, as if that were all.
TEST(Banks, ABankThatIsHalfDeletedIsRefusedUntilItIsDeleted) {
  FakeCluster cluster(2);
  ASSERT_TRUE(cluster.router->CreateBank(cluster.ctx, "b", {}).ok());
  cluster.Add(SomeDocuments(20), "b");
  rpc::BankSpec half_made = testing::TestBankSpec();
  half_made.name = "c";
  half_made.uid = 5;
  ASSERT_TRUE(cluster.shards[1].CreateBank(cluster.ctx, half_made).ok());
  bool down = true;
  cluster.shards[1].before = [&down](const std::string& method, const rpc::CallContext&) {
    return down && method == "DeleteBank" ? absl::UnavailableError("down") : absl::OkStatus();
  };
  EXPECT_EQ(cluster.router->DeleteBank(cluster.ctx, "b").code(), absl::StatusCode::kUnavailable);
  // By this router, and by one that knows nothing of the deletion.
  std::vector<rpc::ComputeNode*> nodes = {cluster.nodes[0].get()};
  Router another(cluster.map, cluster.pointers, nodes, {});
  for (Router* router : {cluster.router.get(), &another}) {
    EXPECT_EQ(router->OpenSession(cluster.ctx, "b", {}).status().code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(router->Repair(cluster.ctx).code(), absl::StatusCode::kFailedPrecondition);
  }
  // The other bank is made whole all the same.
  ASSERT_EQ(cluster.shards[0].ListBanks(cluster.ctx)->size(), 1u);
  EXPECT_EQ(cluster.shards[0].ListBanks(cluster.ctx)->front().spec.name, "c");
  down = false;
  EXPECT_TRUE(another.DeleteBank(cluster.ctx, "b").ok());
  EXPECT_EQ(cluster.shards[1].ListBanks(cluster.ctx)->size(), 1u);
  EXPECT_TRUE(cluster.router->CreateBank(cluster.ctx, "b", {}).ok());
  EXPECT_TRUE(cluster.router->OpenSession(cluster.ctx, "b", {}).ok());
}

// A shard that comes back with an empty folder, say.
TEST(Banks, AShardThatHasLostItsDocumentsIsNamed) {
  FakeCluster cluster(2);
  ASSERT_TRUE(cluster.router->CreateBank(cluster.ctx, "b", {}).ok());
  cluster.Add(SomeDocuments(20), "b");
  ASSERT_TRUE(cluster.shards[1].DeleteBank(cluster.ctx, "b").ok());
  const absl::Status status = cluster.router->OpenSession(cluster.ctx, "b", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 's1' lacks it"));
  EXPECT_TRUE(cluster.shards[1].ListBanks(cluster.ctx)->empty());
}

TEST(Banks, ADeletionWhoseAnswerIsLostIsNoCrashsTrace) {
  FakeCluster cluster(2);
  ASSERT_TRUE(cluster.router->CreateBank(cluster.ctx, "b", {}).ok());
  cluster.Add(SomeDocuments(20), "b");
  bool lossy = true;
  cluster.shards[0].before = [&](const std::string& method, const rpc::CallContext& context) {
    if (method != "DeleteBank" || !std::exchange(lossy, false)) return absl::OkStatus();
    EXPECT_TRUE(cluster.shards[0].DeleteBank(context, "b").ok());
    return absl::UnavailableError("the answer was lost");
  };
  bool down = true;
  cluster.shards[1].before = [&down](const std::string& method, const rpc::CallContext&) {
    return down && method == "DeleteBank" ? absl::UnavailableError("down") : absl::OkStatus();
  };
  EXPECT_EQ(cluster.router->DeleteBank(cluster.ctx, "b").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(cluster.router->OpenSession(cluster.ctx, "b", {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(cluster.shards[0].ListBanks(cluster.ctx)->empty());

  // Both shards lose theirs without the router's knowing: a bank of that name begins anew.
  down = false;
  ASSERT_TRUE(cluster.shards[1].DeleteBank(cluster.ctx, "b").ok());
  ASSERT_TRUE(cluster.router->CreateBank(cluster.ctx, "b", {}).ok());
  EXPECT_TRUE(cluster.router->OpenSession(cluster.ctx, "b", {}).ok());
}

// Made again, the bank would give out numbers under its uid that documents had.
TEST(Banks, AHalfDeletedBankWithoutDocumentsIsNotMadeAgain) {
  for (const bool numbered : {false, true}) {
    for (const int deleted_on : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << numbered << " " << deleted_on);
      FakeCluster cluster(2);
      const auto spec = cluster.router->CreateBank(cluster.ctx, "b", {});
      ASSERT_TRUE(spec.ok()) << spec.status();
      if (numbered) {
        ASSERT_TRUE(cluster.shards[0].TakeReferences({}, "b", spec->uid, 0, 1).ok());
      }
      ASSERT_TRUE(cluster.shards[deleted_on].DeleteBank({}, "b").ok());
      const auto session = cluster.router->OpenSession(cluster.ctx, "b", {});
      EXPECT_EQ(session.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_EQ(cluster.router->Repair(cluster.ctx).code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_TRUE(cluster.shards[deleted_on].ListBanks({})->empty());
      EXPECT_TRUE(cluster.router->DeleteBank(cluster.ctx, "b").ok());
      EXPECT_TRUE(cluster.router->CreateBank(cluster.ctx, "b", {}).ok());
    }
  }
}

// A shard that lost its data has no record of the bank; that numbers were given is known elsewhere.
TEST(Banks, ABankThatHasGivenNumbersIsNotMadeOnAnEmptyShard) {
  FakeCluster cluster(2);
  rpc::BankSpec spec = testing::TestBankSpec();
  spec.name = "b";
  ASSERT_TRUE(cluster.shards[0].CreateBank({}, spec).ok());
  ASSERT_TRUE(cluster.shards[0].TakeReferences({}, "b", spec.uid, 0, 1).ok());
  const absl::Status status = cluster.router->OpenSession(cluster.ctx, "b", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 's1' lacks it"));
  EXPECT_TRUE(cluster.shards[1].ListBanks({})->empty());
}

TEST(Banks, WhoWaitsForAnotherCreationHasADeadline) {
  FakeCluster cluster(2);
  absl::Notification entered, over;
  cluster.shards[1].before = [&](const std::string& method, const rpc::CallContext&) {
    if (method != "CreateBank" || entered.HasBeenNotified()) return absl::OkStatus();
    entered.Notify();
    over.WaitForNotification();
    return absl::OkStatus();
  };
  std::thread slow([&] { EXPECT_TRUE(cluster.router->CreateBank(cluster.ctx, "slow", {}).ok()); });
  entered.WaitForNotification();
  rpc::CallContext brief;
  brief.deadline = absl::Now() + absl::Milliseconds(20);
  EXPECT_EQ(cluster.router->CreateBank(brief, "b", {}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  rpc::CallContext gone;
  gone.cancelled = [] { return true; };
  EXPECT_EQ(cluster.router->DeleteBank(gone, "b").code(), absl::StatusCode::kCancelled);
  over.Notify();
  slow.join();
}

TEST(Banks, DifferentBanksUnderOneNameAreRefused) {
  FakeCluster cluster(2);
  rpc::BankSpec spec = testing::TestBankSpec();
  spec.name = "b";
  for (auto& shard : cluster.shards) {
    ++spec.uid;
    ASSERT_TRUE(shard.CreateBank(cluster.ctx, spec).ok());
  }
  absl::Status stream;
  cluster.Add(SomeDocuments(1), "b", &stream);
  EXPECT_EQ(stream.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(stream.message()), HasSubstr("'s1'"));
  EXPECT_EQ(cluster.router->OpenSession(cluster.ctx, "b", {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace msa::router

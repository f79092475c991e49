// The MemoryShard contract's banks: made, deleted, and the reference numbers that they give.
#include <algorithm>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "common/limits.h"
#include "gmock/gmock.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/memory_shard_contract.h"
#include "tests/support/memory_shard_story.h"

namespace msa::testing {
namespace {

TEST_P(MemoryShardContract, BanksComeBackAsTheyWereMade) {
  rpc::BankSpec other = TestBank(DType::kInt8, DType::kBFloat16, "other", 78);
  other.weights_dtype = DType::kInt8;
  ASSERT_OK(shard().CreateBank(ctx_, kBank));
  ASSERT_OK(shard().CreateBank(ctx_, other));
  ASSERT_OK(shard().CreateBank(ctx_, kBank));  // the same again
  rpc::BankSpec changed = kBank;
  changed.content_dtype = DType::kInt8;
  ASSERT_CODE(shard().CreateBank(ctx_, changed), kAlreadyExists);
  auto banks = shard().ListBanks(ctx_);
  ASSERT_OK(banks.status());
  ASSERT_EQ(banks->size(), 2u);
  std::sort(banks->begin(), banks->end(),
            [](const auto& a, const auto& b) { return a.spec.name < b.spec.name; });
  EXPECT_EQ((*banks)[0].spec, kBank);
  EXPECT_EQ((*banks)[1].spec, other);
  EXPECT_EQ((*banks)[0].next_reference, 0);
  if (!under_test_->Restart()) return;
  banks = shard().ListBanks(ctx_);
  ASSERT_OK(banks.status());
  for (const rpc::BankState& bank : *banks) {
    EXPECT_EQ(bank.spec, bank.spec.name == "other" ? other : kBank);
  }
}

TEST_P(MemoryShardContract, BanksThatCannotBeAreRefused) {
  const auto refused = [&](auto change) {
    rpc::BankSpec bank = kBank;
    change(bank);
    EXPECT_EQ(shard().CreateBank(ctx_, bank).code(), absl::StatusCode::kInvalidArgument);
  };
  refused([](auto& bank) { bank.name = ""; });
  refused([](auto& bank) { bank.name = std::string(kMaxBankNameBytes + 1, 'n'); });
  refused([](auto& bank) { bank.name = "line\nbreak"; });
  refused([](auto& bank) { bank.uid = 0; });
  refused([](auto& bank) { bank.router_layers = {}; });
  refused([](auto& bank) { bank.router_layers = {3, 3}; });
  refused([](auto& bank) { bank.routing.num_kv_heads = 3; });
  refused([](auto& bank) { bank.routing.head_dim = 0; });
  refused([](auto& bank) { bank.routing_chunk_tokens = 0; });
  refused([](auto& bank) { bank.part_tokens = kMaxPartTokens + 1; });
  refused([](auto& bank) { bank.model_fingerprint = ""; });
}

TEST_P(MemoryShardContract, ADeletedBankIsGoneAndItsNameFree) {
  Story story(shard());
  story.Put({.id = "a", .first_reference = 0});
  const uint64_t snapshot = story.Open();
  ASSERT_OK(shard().DeleteBank(ctx_, kBank.name));
  ASSERT_CODE(shard().Route(ctx_, story.Request(snapshot, 2)).status(), kNotFound);
  under_test_->RunMaintenance();
  rpc::BankSpec anew = kBank;
  anew.uid = 1234;
  Story second(shard(), anew);
  EXPECT_EQ((*shard().ListBanks(ctx_))[0].next_reference, 0);
  ASSERT_CODE(shard().PutDocument(ctx_, MakeDocument(kBank, {.id = "a"})).status(),
              kFailedPrecondition);
  ASSERT_CODE(shard().Route(ctx_, story.Request(snapshot, 2)).status(), kFailedPrecondition);
  EXPECT_EQ(second.Put({.id = "a", .first_reference = 0}).revision, 1u);
  if (under_test_->Restart()) {
    EXPECT_EQ(shard().Stats(ctx_, kBank.name)->num_documents, 1);
  }
}

// Reference numbers would begin again under the uid.
TEST_P(MemoryShardContract, ADeletedBanksUidIsNotUsedAgain) {
  rpc::BankSpec named = kBank;
  named.name = "another";
  ASSERT_OK(shard().CreateBank(ctx_, kBank));
  ASSERT_OK(shard().DeleteBank(ctx_, kBank.name));
  const auto refused = [&] {
    ASSERT_CODE(shard().CreateBank(ctx_, kBank), kFailedPrecondition);
    ASSERT_CODE(shard().CreateBank(ctx_, named), kFailedPrecondition);
  };
  refused();
  for (int sweep = 0; sweep < 2; ++sweep) {
    under_test_->RunMaintenance();
    refused();
  }
  if (under_test_->Restart()) refused();
}

TEST_P(MemoryShardContract, ABankIsDeletedAsUnusedOnlyBeforeItsFirstNumber) {
  const auto delete_unused = [&](const rpc::BankSpec& bank) {
    return shard().DeleteUnusedBank(ctx_, bank.name, bank.uid);
  };
  const auto exists = [&](const rpc::BankSpec& bank) {
    return shard().Stats(ctx_, bank.name).ok();
  };
  const rpc::BankSpec unused = TestBank(DType::kFloat32, DType::kFloat32, "unused", 901);
  const rpc::BankSpec numbered = TestBank(DType::kFloat32, DType::kFloat32, "numbered", 902);
  const rpc::BankSpec emptied = TestBank(DType::kFloat32, DType::kFloat32, "emptied", 903);
  for (const auto& bank : {unused, numbered, emptied}) ASSERT_OK(shard().CreateBank(ctx_, bank));
  ASSERT_OK(shard().TakeReferences(ctx_, numbered.name, numbered.uid, 0, 1).status());
  ASSERT_OK(shard().PutDocument(ctx_, MakeDocument(emptied, {.id = "a"})).status());
  ASSERT_OK(shard().DeleteDocument(ctx_, emptied.name, "a").status());

  ASSERT_CODE(delete_unused(TestBank(DType::kFloat32, DType::kFloat32, "nowhere")), kNotFound);
  ASSERT_CODE(shard().DeleteUnusedBank(ctx_, unused.name, unused.uid + 1), kNotFound);
  EXPECT_TRUE(exists(unused));
  ASSERT_OK(delete_unused(unused));
  EXPECT_FALSE(exists(unused));
  for (const bool restarted : {false, true}) {
    if (restarted && !under_test_->Restart()) return;
    for (const auto& bank : {numbered, emptied}) {
      ASSERT_CODE(delete_unused(bank), kFailedPrecondition);
      EXPECT_TRUE(exists(bank)) << bank.name;
    }
    EXPECT_FALSE(exists(unused));
  }
}

// One that is deleted takes no number; one that has given one is not deleted.
TEST_P(MemoryShardContract, ABankIsDeletedAsUnusedOrGivesANumber) {
  for (uint64_t round = 0; round < 50; ++round) {
    const rpc::BankSpec bank = TestBank(DType::kFloat32, DType::kFloat32, "raced", 1000 + round);
    ASSERT_OK(shard().CreateBank(ctx_, bank));
    bool numbered = false;
    std::thread taker(
        [&] { numbered = shard().TakeReferences(ctx_, bank.name, bank.uid, 0, 1).ok(); });
    const bool deleted = shard().DeleteUnusedBank(ctx_, bank.name, bank.uid).ok();
    taker.join();
    EXPECT_NE(numbered, deleted);
    if (!deleted) ASSERT_OK(shard().DeleteBank(ctx_, bank.name));
  }
}

TEST_P(MemoryShardContract, NextReferenceCountsDeletedDocuments) {
  Story story(shard());
  story.Put({.id = "high", .first_reference = 40, .part_tokens = {5, 5}});
  story.Put({.id = "low", .first_reference = 7});
  story.Delete("high");
  under_test_->RunMaintenance();
  if (under_test_->Restart()) {
    EXPECT_EQ((*shard().ListBanks(ctx_))[0].next_reference, 42);
  }
  EXPECT_EQ((*shard().ListBanks(ctx_))[0].next_reference, 42);
}

TEST_P(MemoryShardContract, ReferencesAreTakenOnce) {
  Story story(shard());
  const auto take = [this](int64_t at_least, int64_t count) {
    const auto first = shard().TakeReferences(ctx_, kBank.name, kBank.uid, at_least, count);
    EXPECT_TRUE(first.ok()) << first.status();
    return first.value_or(-1);
  };
  EXPECT_EQ(take(0, 5), 0);
  EXPECT_EQ(take(0, 1), 5);
  EXPECT_EQ(take(40, 2), 40);  // those between are nobody's
  EXPECT_EQ((*shard().ListBanks(ctx_))[0].next_reference, 0) << "none is stored";
  EXPECT_EQ((*shard().ListBanks(ctx_))[0].references_taken, 42);
  story.Put({.id = "a", .first_reference = 3});
  EXPECT_EQ(take(0, 1), 42);
  under_test_->Restart();
  EXPECT_EQ((*shard().ListBanks(ctx_))[0].references_taken, 43);
  EXPECT_EQ(take(0, 3), 43);
  const auto above =  // taken of no shard
      MakeDocument(kBank, {.id = "above", .first_reference = 60, .part_tokens = {5, 5}});
  ASSERT_OK(shard().PutDocument(ctx_, above).status());
  EXPECT_EQ(take(0, 1), 62);
  under_test_->Restart();
  EXPECT_EQ(take(0, 1), 63);

  const auto code = [this](const std::string& bank, int64_t at_least, int64_t count) {
    return shard().TakeReferences(ctx_, bank, kBank.uid, at_least, count).status().code();
  };
  EXPECT_EQ(code("nowhere", 0, 1), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(kBank.name, 0, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kBank.name, 0, kMaxReferencesTaken + 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(kBank.name, std::numeric_limits<int64_t>::max(), 1),
            absl::StatusCode::kInvalidArgument);
  // A bank that was deleted and made anew under the name has numbers of its own.
  ASSERT_CODE(shard().TakeReferences(ctx_, kBank.name, kBank.uid + 1, 1000, 1).status(),
              kFailedPrecondition);
  EXPECT_EQ(take(0, 1), 64);
}

TEST_P(MemoryShardContract, ReferencesAreTakenOnceByManyAtATime) {
  Story story(shard());
  constexpr int kTakers = 4, kEach = 50;
  std::vector<int64_t> taken(kTakers * kEach);
  std::vector<std::thread> takers;
  for (int t = 0; t < kTakers; ++t) {
    takers.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        taken[t * kEach + i] =
            shard().TakeReferences(ctx_, kBank.name, kBank.uid, 0, 2).value_or(-1);
      }
    });
  }
  for (std::thread& taker : takers) taker.join();
  std::sort(taken.begin(), taken.end());
  for (int i = 0; i < kTakers * kEach; ++i) ASSERT_EQ(taken[i], 2 * i);
}

}  // namespace
}  // namespace msa::testing

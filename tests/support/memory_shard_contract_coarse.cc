// The MemoryShard contract's coarse scans: codes of a bank's keys, kept or not, and answers by
// them.
#include <string>
#include <vector>

#include "common/limits.h"
#include "common/strings.h"
#include "gmock/gmock.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/memory_shard_contract.h"
#include "tests/support/memory_shard_story.h"

namespace msa::testing {
namespace {

// Keys of 64 numbers, which can have codes.
rpc::BankSpec CodedBank(DType dtype, const std::string& name, uint64_t uid) {
  rpc::BankSpec bank = TestBank(dtype, dtype, name, uid);
  bank.routing.head_dim = 32;
  return bank;
}

constexpr rpc::CoarseState kCodes = {.codes = true, .candidates = 40};

TEST_P(MemoryShardContract, CoarseScansSelectWhatExactOnesDoAmongTheCandidates) {
  uint64_t uid = 500;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
    const rpc::BankSpec bank = CodedBank(dtype, StrCat("coded", uid), uid);
    ++uid;
    Story story(shard(), bank);
    std::vector<int64_t> all;
    const auto put = [&](int64_t i) {
      story.Put({.id = StrCat("d", i),
                 .first_reference = i,
                 .part_tokens = {1 + static_cast<int32_t>(i % 60)},
                 .seed = static_cast<uint64_t>(i)});
      all.push_back(i);
    };
    for (int64_t i = 0; i < 60; ++i) put(i);
    ASSERT_OK(shard().SetCoarse(ctx_, bank.name, kCodes));
    for (int64_t i = 60; i < 120; ++i) put(i);  // these get codes as they come
    story.Delete("d7");
    std::erase(all, 7);
    under_test_->RunMaintenance();
    const uint64_t snapshot = story.Open();
    const auto exact = story.Route(snapshot, 3, 0, 8);
    auto request = story.Request(snapshot, 3, 0, 8);
    request.candidates = 60;
    const auto coarse = shard().Route(ctx_, request);
    ASSERT_OK(coarse.status());
    EXPECT_EQ(References(*coarse), References(exact));
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_EQ((*coarse)[i].scored.score, exact[i].scored.score);
    }
    // As many candidates as parts: the whole list.
    request = story.Request(snapshot, 5, 1, 200);
    request.candidates = 1;
    story.ExpectRouted(*shard().Route(ctx_, request), all, 2);
    const auto ranked = shard().Rank(ctx_, {bank.name, snapshot, 1, 3, false, {}});
    ASSERT_OK(ranked.status());
    EXPECT_EQ(ranked->size(), 3u);
    const auto stats = shard().Stats(ctx_, bank.name);
    EXPECT_EQ(stats->coarse_selections, 3);
    EXPECT_GT(stats->code_bytes, 0);
    EXPECT_EQ(stats->coarse, kCodes);
  }
}

TEST_P(MemoryShardContract, CoarseScansTakeCodes) {
  const rpc::BankSpec bank = CodedBank(DType::kFloat32, "coded", 600);
  Story story(shard(), bank);
  story.Put({.id = "a"});
  const uint64_t snapshot = story.Open();
  auto request = story.Request(snapshot, 3);
  request.candidates = 16;
  ASSERT_CODE(shard().Route(ctx_, request).status(), kFailedPrecondition);
  ASSERT_OK(shard().SetCoarse(ctx_, bank.name, kCodes));
  ASSERT_OK(shard().Route(ctx_, request).status());
  request.candidates = kMaxCandidates + 1;
  ASSERT_CODE(shard().Route(ctx_, request).status(), kInvalidArgument);
  request.candidates = -1;
  ASSERT_CODE(shard().Route(ctx_, request).status(), kInvalidArgument);
  ASSERT_OK(shard().SetCoarse(ctx_, bank.name, {}));
  request.candidates = 16;
  ASSERT_CODE(shard().Route(ctx_, request).status(), kFailedPrecondition);
  EXPECT_EQ(shard().Stats(ctx_, bank.name)->code_bytes, 0);
  story.ExpectRouted(story.Route(snapshot, 3), {0}, 1);
}

TEST_P(MemoryShardContract, StatesOfCoarseScansThatCannotBeAreRefused) {
  const rpc::BankSpec bank = CodedBank(DType::kFloat32, "coded", 601);
  ASSERT_OK(shard().CreateBank(ctx_, bank));
  ASSERT_OK(shard().CreateBank(ctx_, kBank));  // keys of 8 numbers
  ASSERT_CODE(shard().SetCoarse(ctx_, kBank.name, kCodes), kFailedPrecondition);
  ASSERT_CODE(shard().SetCoarse(ctx_, "none", kCodes), kNotFound);
  const auto refused = [&](auto change) {
    rpc::CoarseState state = kCodes;
    change(state);
    ASSERT_CODE(shard().SetCoarse(ctx_, bank.name, state), kInvalidArgument);
  };
  refused([](auto& s) { s.candidates = 0; });
  refused([](auto& s) { s.candidates = kMaxCandidates + 1; });
  refused([](auto& s) { s.same = 1; });
  refused([](auto& s) {
    s.codes = false;
    s.on = true;
  });
  EXPECT_EQ(shard().Stats(ctx_, bank.name)->coarse, rpc::CoarseState());
}

TEST_P(MemoryShardContract, CoarseScansOutliveARestart) {
  const rpc::BankSpec bank = CodedBank(DType::kBFloat16, "coded", 602);
  const rpc::CoarseState state = {.codes = true,
                                  .on = true,
                                  .candidates = 33,
                                  .top_k = 16,
                                  .selections = 4000,
                                  .same = 3999,
                                  .num_parts = 50,
                                  .next_reference = 51};
  Story story(shard(), bank);
  for (int64_t i = 0; i < 50; ++i) {
    story.Put({.id = StrCat("d", i), .first_reference = i, .seed = static_cast<uint64_t>(i)});
  }
  ASSERT_OK(shard().SetCoarse(ctx_, bank.name, state));
  const int64_t code_bytes = shard().Stats(ctx_, bank.name)->code_bytes;
  if (!under_test_->Restart()) GTEST_SKIP() << "no data to start on again";
  const auto banks = shard().ListBanks(ctx_);
  ASSERT_OK(banks.status());
  EXPECT_EQ((*banks)[0].coarse, state);
  EXPECT_EQ(shard().Stats(ctx_, bank.name)->code_bytes, code_bytes);
  const auto snapshot = shard().OpenSnapshot(ctx_, bank.name, absl::Minutes(1));
  rpc::RouteRequest request = story.Request(snapshot->id, 3, 0, 8);
  const auto exact = shard().Route(ctx_, request);
  request.candidates = 33;
  const auto coarse = shard().Route(ctx_, request);
  ASSERT_OK(coarse.status());
  EXPECT_EQ(References(*coarse), References(*exact));
  // Another bank of the name knows nothing of it.
  ASSERT_OK(shard().DeleteBank(ctx_, bank.name));
  under_test_->RunMaintenance();
  ASSERT_OK(shard().CreateBank(ctx_, CodedBank(DType::kBFloat16, "coded", 603)));
  EXPECT_EQ(shard().Stats(ctx_, bank.name)->coarse, rpc::CoarseState());
}

}  // namespace
}  // namespace msa::testing

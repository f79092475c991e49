// The MemoryShard contract's questions: snapshots, routing, ranking, texts and blocks.
#include <cmath>

#include "common/limits.h"
#include "common/strings.h"
#include "gmock/gmock.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/memory_shard_contract.h"
#include "tests/support/memory_shard_story.h"

namespace msa::testing {
namespace {

using ::testing::ElementsAre;

TEST_P(MemoryShardContract, RoutesToTheBestPartsInEveryPrecision) {
  uint64_t uid = 100;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
    const std::string name = StrCat("bank", ++uid);
    Story story(shard(), TestBank(dtype, dtype, name, uid));
    std::vector<int64_t> all;
    for (int64_t i = 0; i < 40; ++i) {
      const std::vector<int32_t> tokens = i % 5 == 0
                                              ? std::vector<int32_t>{64, 3}
                                              : std::vector<int32_t>{1 + static_cast<int32_t>(i)};
      story.Put({.id = StrCat("d", i),
                 .first_reference = 2 * i,
                 .part_tokens = tokens,
                 .seed = static_cast<uint64_t>(i)});
      all.push_back(2 * i);
      if (i % 5 == 0) all.push_back(2 * i + 1);
    }
    const uint64_t snapshot = story.Open();
    const int32_t layers[] = {2, 3, 5};
    for (int layer = 0; layer < 3; ++layer) {
      story.ExpectRouted(story.Route(snapshot, layers[layer]), all, layer);
      const auto best = story.Route(snapshot, layers[layer], 0, 4);
      const auto expected = story.Expected(all, layer);
      ASSERT_EQ(best.size(), 4u);
      for (int i = 0; i < 4; ++i) EXPECT_EQ(best[i].scored.reference, expected[i].reference);
    }
  }
}

TEST_P(MemoryShardContract, EqualScoresComeByReference) {
  Story story(shard());
  // The same keys under several references: a document's seed and first reference make its keys.
  auto document = MakeDocument(kBank, {.id = "x", .first_reference = 9});
  for (int64_t reference : {9, 3, 7, 5}) {
    document.document.id = StrCat("d", reference);
    document.parts[0].reference = reference;
    ASSERT_OK(shard().PutDocument(ctx_, document).status());
  }
  EXPECT_THAT(References(story.Route(story.Open(), 3)), ElementsAre(3, 5, 7, 9));
  EXPECT_THAT(References(story.Route(story.Open(), 3, 0, 2)), ElementsAre(3, 5));
}

TEST_P(MemoryShardContract, RouteRefusesWhatItCannotAnswer) {
  Story story(shard());
  story.Put({.id = "a"});
  const uint64_t snapshot = story.Open();
  const auto refused = [&](absl::StatusCode code, auto change) {
    rpc::RouteRequest request = story.Request(snapshot, 2);
    change(request);
    const auto status = shard().Route(ctx_, request).status();
    EXPECT_EQ(status.code(), code) << status;
  };
  using Code = absl::StatusCode;
  refused(Code::kInvalidArgument, [](auto& r) { r.layer = 4; });
  refused(Code::kInvalidArgument, [](auto& r) { r.top_k = 0; });
  refused(Code::kInvalidArgument, [](auto& r) { r.top_k = kMaxTopK + 1; });
  refused(Code::kInvalidArgument, [](auto& r) { r.queries.clear(); });
  refused(Code::kInvalidArgument, [](auto& r) { r.queries.pop_back(); });
  refused(Code::kInvalidArgument, [](auto& r) { r.queries[1] = std::nanf(""); });
  refused(Code::kFailedPrecondition, [](auto& r) { r.snapshot_id += 1; });
  ASSERT_OK(shard().CloseSnapshot(ctx_, snapshot));
  refused(Code::kFailedPrecondition, [](auto& r) {});
  // What routers and compute nodes know it by.
  const auto lost = shard().Route(ctx_, story.Request(snapshot, 2)).status();
  ASSERT_CODE(rpc::NameLostSnapshot(lost, "a"), kUnavailable);
}

TEST_P(MemoryShardContract, ASnapshotSeesWhatWasThereLessWhatIsDeleted) {
  Story story(shard());
  story.Put({.id = "stays", .first_reference = 0, .seed = 1});
  story.Put({.id = "replaced", .first_reference = 1, .part_tokens = {9, 9}, .seed = 2});
  story.Put({.id = "deleted", .first_reference = 3, .seed = 3});
  const uint64_t before = story.Open();
  story.Put({.id = "replaced", .first_reference = 4, .seed = 4});
  story.Put({.id = "late", .first_reference = 5, .seed = 5});
  story.ExpectRouted(story.Route(before, 2), {0, 1, 2, 3}, 0);
  story.Delete("deleted");
  story.ExpectRouted(story.Route(before, 2), {0, 1, 2}, 0);
  const uint64_t after = story.Open();
  story.ExpectRouted(story.Route(after, 2), {0, 4, 5}, 0);
  // Compaction keeps what a snapshot needs; a delete reaches the old revision, too.
  under_test_->RunMaintenance();
  story.ExpectRouted(story.Route(before, 3), {0, 1, 2}, 1);
  story.Delete("replaced");
  story.ExpectRouted(story.Route(before, 5), {0}, 2);
  story.ExpectRouted(story.Route(after, 5), {0, 5}, 2);
  under_test_->RunMaintenance();
  story.ExpectRouted(story.Route(before, 5), {0}, 2);
  EXPECT_EQ(shard().OpenSnapshot(ctx_, kBank.name, absl::Seconds(1))->num_parts, 2);
}

TEST_P(MemoryShardContract, ASnapshotExpiresAfterItsLastUse) {
  Story story(shard());
  story.Put({.id = "a"});
  const uint64_t snapshot = story.Open();
  if (!under_test_->AdvanceClock(absl::Seconds(40))) GTEST_SKIP() << "no clock to move";
  EXPECT_EQ(story.Route(snapshot, 2).size(), 1u);
  under_test_->AdvanceClock(absl::Seconds(40));
  EXPECT_EQ(story.Route(snapshot, 2).size(), 1u);
  under_test_->AdvanceClock(absl::Seconds(61));
  ASSERT_CODE(shard().Route(ctx_, story.Request(snapshot, 2)).status(), kFailedPrecondition);
  EXPECT_EQ(shard().Stats(ctx_, kBank.name)->open_snapshots, 0);
}

TEST_P(MemoryShardContract, TtlsAreLimited) {
  Story story(shard());
  for (absl::Duration ttl : {absl::ZeroDuration(), absl::Seconds(-1), absl::Hours(24 * 365)}) {
    ASSERT_CODE(shard().OpenSnapshot(ctx_, kBank.name, ttl).status(), kInvalidArgument);
  }
}

TEST_P(MemoryShardContract, PartsComeInTheOrderAsked) {
  Story story(shard());
  story.Put({.id = "a",
             .first_reference = 0,
             .part_tokens = {8, 8, 8},
             .title = "A",
             .text = "0123456789"});
  story.Put({.id = "b", .first_reference = 10, .text = "whole"});
  const uint64_t snapshot = story.Open();
  story.Put({.id = "b", .first_reference = 11, .text = "new"});
  story.Put({.id = "c", .first_reference = 12});
  auto parts = shard().GetParts(ctx_, kBank.name, snapshot, {10, 2, 99, 0, 11, 12});
  ASSERT_OK(parts.status());
  ASSERT_EQ(parts->size(), 3u);
  EXPECT_EQ((*parts)[0].text, "whole");
  EXPECT_EQ((*parts)[0].revision, 1u);
  EXPECT_EQ((*parts)[1].document_id, "a");
  EXPECT_EQ((*parts)[1].part_index, 2);
  EXPECT_EQ((*parts)[1].num_parts, 3);
  EXPECT_EQ((*parts)[1].span, story.part(2).span);
  EXPECT_EQ((*parts)[0].title + (*parts)[2].title, "A");
  EXPECT_EQ((*parts)[2].text, "A\n01");
  story.Delete("a");
  EXPECT_EQ(shard().GetParts(ctx_, kBank.name, snapshot, {10, 2, 0})->size(), 1u);
}

TEST_P(MemoryShardContract, RanksByTheMeanOverLayers) {
  Story story(shard());
  for (int64_t i = 0; i < 12; ++i) {
    story.Put({.id = StrCat("d", i),
               .first_reference = 2 * i,
               .part_tokens = {12, 7},
               .seed = static_cast<uint64_t>(i) + 50});
  }
  const uint64_t snapshot = story.Open();
  const rpc::RankRequest all = {kBank.name, snapshot, 0, 1000, false, {}};
  ASSERT_CODE(shard().Rank(ctx_, all).status(), kFailedPrecondition);
  for (int32_t layer : {2, 3, 5, 3}) story.Route(snapshot, layer);  // 3 again: counts once
  std::vector<ScoredPart> expected;
  for (int64_t reference = 0; reference < 24; ++reference) {
    double sum = 0;
    for (int layer = 0; layer < 3; ++layer) {
      sum += OracleScore(kBank, story.part(reference), layer, MakeQueries(kBank, 3, 42));
    }
    expected.push_back({static_cast<float>(sum / 3), reference});
  }
  std::sort(expected.begin(), expected.end(), Precedes);
  auto ranked = shard().Rank(ctx_, all);
  ASSERT_OK(ranked.status());
  ASSERT_EQ(ranked->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ((*ranked)[i].scored.reference, expected[i].reference);
    EXPECT_EQ((*ranked)[i].scored.score, expected[i].score);
  }
  // One part a document: the first of each in the list above.
  std::vector<int64_t> firsts;
  std::vector<bool> seen(12);
  for (const ScoredPart& part : expected) {
    if (!seen[part.reference / 2]) firsts.push_back(part.reference);
    seen[part.reference / 2] = true;
  }
  rpc::RankRequest one = all;
  one.one_per_document = true;
  EXPECT_EQ(References(*shard().Rank(ctx_, one)), firsts);
  one.limit = 2;
  one.exclude = {firsts[0]};
  const auto limited = References(*shard().Rank(ctx_, one));
  ASSERT_EQ(limited.size(), 2u);
  EXPECT_NE(limited[0], firsts[0]);
  // A deleted document drops out of sums already made.
  story.Delete(StrCat("d", expected[0].reference / 2));
  EXPECT_EQ(shard().Rank(ctx_, all)->size(), expected.size() - 2);
}

TEST_P(MemoryShardContract, RankSumsForgetTheRoundBeforeAndNotTheOrderOfLayers) {
  Story story(shard());
  for (int64_t i = 0; i < 6; ++i) {
    story.Put({.id = StrCat("d", i), .first_reference = i, .seed = static_cast<uint64_t>(i) + 9});
  }
  const uint64_t forward = story.Open(), backward = story.Open();
  for (int32_t layer : {2, 3, 5}) story.Route(forward, layer, 0);
  for (int32_t layer : {5, 3, 2}) story.Route(backward, layer, 0);
  const auto rank = [&](uint64_t snapshot, int round) {
    return shard().Rank(ctx_, {kBank.name, snapshot, round, 100, false, {}});
  };
  const auto a = rank(forward, 0), b = rank(backward, 0);
  ASSERT_OK(a.status());
  ASSERT_OK(b.status());
  ASSERT_EQ(References(*a), References(*b));
  for (size_t i = 0; i < a->size(); ++i) EXPECT_EQ((*a)[i].scored.score, (*b)[i].scored.score);
  story.Route(forward, 3, 1);
  const auto second = rank(forward, 1);
  ASSERT_OK(second.status());
  const auto expected = story.Expected({0, 1, 2, 3, 4, 5}, 1);
  ASSERT_EQ(second->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ((*second)[i].scored.reference, expected[i].reference);
    EXPECT_EQ((*second)[i].scored.score, expected[i].score);
  }
  ASSERT_CODE(rank(forward, 0).status(), kFailedPrecondition);
}

TEST_P(MemoryShardContract, BlocksComeAsTheyWerePut) {
  uint64_t uid = 200;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
    ++uid;
    const rpc::BankSpec bank = TestBank(DType::kBFloat16, dtype, StrCat("b", uid), uid);
    Story story(shard(), bank);
    story.Put({.id = "a", .first_reference = 3, .part_tokens = {40, 11}, .seed = 5});
    story.Put({.id = "gone", .first_reference = 6});
    story.Put({.id = "b", .first_reference = 7, .seed = 6});
    const uint64_t snapshot = story.Open();
    story.Put({.id = "b", .first_reference = 8, .seed = 7});  // the snapshot keeps revision 1
    story.Delete("gone");
    under_test_->RunMaintenance();
    std::vector<std::pair<int64_t, int32_t>> order;
    ASSERT_OK(shard().FetchBlocks(
        ctx_, {bank.name, snapshot, {7, 4, 6, 8, 1000}, {5, 2}}, [&](rpc::FetchedBlock block) {
          order.emplace_back(block.reference, block.layer);
          const auto& part = story.part(block.reference);
          std::string error;
          const int layer_index = block.layer == 2 ? 0 : 2;
          EXPECT_EQ(ContentPayload(bank, part, 1, block.layer, block.record.view(), &error),
                    std::string(part.layers[layer_index].content.view()))
              << error;
          return absl::OkStatus();
        }));
    using Block = std::pair<int64_t, int32_t>;
    EXPECT_THAT(order, ElementsAre(Block(7, 5), Block(4, 5), Block(7, 2), Block(4, 2)));
  }
}

TEST_P(MemoryShardContract, FetchStopsWhereTheReaderStops) {
  Story story(shard());
  story.Put({.id = "a", .part_tokens = {8, 8, 8}});
  const uint64_t snapshot = story.Open();
  int blocks = 0;
  const auto status = shard().FetchBlocks(
      ctx_, {kBank.name, snapshot, {0, 1, 2}, {2, 3}},
      [&](auto) { return ++blocks == 3 ? absl::AbortedError("enough") : absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_EQ(blocks, 3);
  ASSERT_CODE(shard().FetchBlocks(ctx_, {kBank.name, snapshot, {0}, {4}},
                                  [](auto) { return absl::OkStatus(); }),
              kInvalidArgument);
}

}  // namespace
}  // namespace msa::testing

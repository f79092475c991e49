#include "router/topk_merge.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

namespace msa::router {
namespace {

// Sorts everything by the rule as the header words it.
std::vector<rpc::RoutedPart> Oracle(const std::vector<rpc::RoutedPart>& all, size_t k) {
  std::vector<rpc::RoutedPart> sorted = all;
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    if (a.scored.score != b.scored.score) return a.scored.score > b.scored.score;
    return a.scored.reference < b.scored.reference;
  });
  sorted.resize(std::min(k, sorted.size()));
  return sorted;
}

TEST(TopKMerge, EqualsSortingEverythingTiesIncluded) {
  std::mt19937 random(11);
  for (int round = 0; round < 2000; ++round) {
    const size_t shards = 1 + random() % 16;
    const int items = static_cast<int>(random() % 60);
    const int levels = 1 + static_cast<int>(random() % 8);  // few: many ties
    std::vector<std::vector<rpc::RoutedPart>> lists(shards);
    std::vector<rpc::RoutedPart> all;
    for (int reference = 0; reference < items; ++reference) {
      const auto shard = static_cast<int32_t>(random() % shards);
      const float score = static_cast<float>(static_cast<int>(random() % levels)) - 2.0f;
      all.push_back({{score, reference}, shard, static_cast<int32_t>(random() % 9)});
      lists[shard].push_back(all.back());
      lists[shard].back().shard = 0;
    }
    for (auto& list : lists) list = Oracle(list, list.size());
    const size_t k = random() % 70;
    const auto merged = MergeTopK(lists, k);
    const auto expected = Oracle(all, k);
    ASSERT_EQ(merged.size(), expected.size());
    for (size_t i = 0; i < merged.size(); ++i) {
      ASSERT_EQ(merged[i].scored.reference, expected[i].scored.reference) << i;
      ASSERT_EQ(merged[i].scored.score, expected[i].scored.score);
      ASSERT_EQ(merged[i].shard, expected[i].shard);
      ASSERT_EQ(merged[i].content_chunks, expected[i].content_chunks);
    }
  }
}

TEST(TopKMerge, APeersDisorderAndMissingScoresDoNotChangeTheAnswer) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto merged = MergeTopK(
      std::vector<std::vector<rpc::RankedPart>>{
          {{{1, 4}, 0}, {{nan, 9}, 0}, {{3, 2}, 0}}, {}, {{{kNoScore, 1}, 0}, {{3, 1}, 0}}},
      10);
  ASSERT_EQ(merged.size(), 3u);
  EXPECT_EQ(merged[0].scored.reference, 1);
  EXPECT_EQ(merged[0].shard, 2);
  EXPECT_EQ(merged[1].scored.reference, 2);
  EXPECT_EQ(merged[2].scored.reference, 4);
}

TEST(TopKMerge, FindsAReferenceThatTwoShardsHave) {
  using Lists = std::vector<std::vector<rpc::RoutedPart>>;
  EXPECT_EQ(GivenTwice(MergeTopK(Lists{{{{2, 4}}, {{1, 7}}}, {{{3, 5}}}}, 10)), std::nullopt);
  EXPECT_EQ(GivenTwice(MergeTopK(Lists{{{{2, 4}}, {{1, 7}}}, {{{3, 7}}}}, 10)), 7);
}

}  // namespace
}  // namespace msa::router

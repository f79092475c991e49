// What a selection and a rank do when rounded scores do not tell, and how much they ask for.
#include "memory_node/selection.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "memory_node/rank_sums.h"
#include "memory_node/scan_sharing.h"
#include "tests/memory_node/index_parts.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/tiny_backend.h"

namespace msa::memory_node {
namespace {

// 1,500 parts of one chunk or more, more than a backend lists, and the order they should come in.
class ManyParts {
 public:
  ManyParts() {
    for (int64_t i = 0; i < kParts; ++i) {
      documents_.push_back(testing::MakeDocument(
          bank_, {.id = "d", .first_reference = i, .seed = static_cast<uint64_t>(i)}));
      expected_.push_back({testing::OracleScore(bank_, documents_[i].parts[0], 1, queries_), i});
    }
    std::sort(expected_.begin(), expected_.end(), Precedes);
  }

  // Selects and ranks on a backend that rounds by `error`; by `loose_error` where loose scans are
  // allowed. Returns how many parts the selection listed at most.
  int ExpectFound(float error, SelectionCounts& counts, float loose_error = 0) const {
    int listed = 0;
    Expect(error, loose_error == 0 ? error : loose_error, counts, &listed);
    return listed;
  }
  // How far the last of `listed` parts is behind the last of the best.
  float Gap(int listed) const { return expected_[kBest - 1].score - expected_[listed - 1].score; }

 private:
  static constexpr int64_t kParts = 1500;
  static constexpr int kBest = 16;

  class ListingBackend : public testing::TinyBackend {
   public:
    ListingBackend(float error, float loose_error)
        : testing::TinyBackend(/*device=*/true, error, loose_error) {}
    std::vector<IndexedScore> TopIndices(const float* scores, int64_t n, int k) const override {
      most_listed_ = std::max(most_listed_, k);
      return testing::TinyBackend::TopIndices(scores, n, k);
    }
    int most_listed() const { return most_listed_; }

   private:
    mutable int most_listed_ = 0;
  };

  void Expect(float error, float loose_error, SelectionCounts& counts, int* listed) const {
    const ListingBackend backend(error, loose_error);
    RoutingIndex index(backend, KeyShapeOf(bank_), {});
    for (int64_t i = 0; i < kParts; ++i) {
      ASSERT_TRUE(index.Append({PartOf(documents_[i].parts[0])}).ok());
      index.Publish({i}, {});
    }
    ScanSharer sharer(&backend, {});
    RankSums sums;
    ASSERT_TRUE(sums.Begin(0).ok());
    auto scores = sharer.Score({}, {.index = &index,
                                    .shape = &bank_.routing,
                                    .layer_index = 1,
                                    .queries = &queries_,
                                    .loose = counts.loose.allowed()});
    ASSERT_TRUE(scores.ok());
    const auto selected = SelectBest(backend, &*scores, index.sequence(), kBest, counts);
    *listed = backend.most_listed();
    sums.Add(*scores, index.num_slots());
    const auto ranked =
        sums.Rank(backend, 0, index.View(), index.sequence(), {.limit = kBest}, counts);
    ASSERT_TRUE(selected.ok() && ranked.ok());
    for (int i = 0; i < kBest; ++i) {
      EXPECT_EQ((*selected)[i].scored.reference, expected_[i].reference);
      EXPECT_EQ((*ranked)[i].reference, expected_[i].reference);
    }
  }

  const rpc::BankSpec bank_ = testing::TestBank(DType::kBFloat16, DType::kBFloat16);
  const std::vector<float> queries_ = testing::MakeQueries(bank_, 2, 5);
  std::vector<rpc::EncodedDocument> documents_;
  std::vector<ScoredPart> expected_;
};

// What is listed cannot tell, an exact pass does.
TEST(Selection, NearTiesAreTakenFromAnExactPass) {
  SelectionCounts counts;
  ManyParts().ExpectFound(1e6f, counts);
  EXPECT_EQ(counts.rescanned, 2);
  EXPECT_EQ(counts.rounded, 0);
}

// Twice the error reaches beyond what is listed, once does not.
TEST(Selection, ExactScoresOfWhatIsListedTellWhereRoundedOnesDoNot) {
  const ManyParts parts;
  SelectionCounts counts;
  EXPECT_EQ(parts.ExpectFound(0.9f * parts.Gap(1024), counts), 1024);
  EXPECT_EQ(counts.rescanned, 0);
  EXPECT_EQ(counts.rounded, 2);
}

// The same of the first list, which has exact scores: no longer one is asked for.
TEST(Selection, TheFirstListsExactScoresTell) {
  const ManyParts parts;
  SelectionCounts counts;
  EXPECT_EQ(parts.ExpectFound(0.7f * parts.Gap(128), counts), 128);
  EXPECT_EQ(counts.rescanned, 0);
  EXPECT_EQ(counts.rounded, 2);
}

// A bank whose loose scores do not tell is spared them, for longer each time.
TEST(Selection, LooseScansPauseWhereTheyDoNotTell) {
  const ManyParts parts;
  SelectionCounts counts;
  const float error = 0.7f * parts.Gap(128);
  parts.ExpectFound(error, counts, /*loose_error=*/1e6f);
  EXPECT_EQ(counts.rescanned, 2);
  EXPECT_FALSE(counts.loose.allowed());
  parts.ExpectFound(error, counts, 1e6f);
  EXPECT_EQ(counts.rescanned, 2);
  EXPECT_EQ(counts.rounded, 2);
}

// More than is listed is wanted, or documents came between two layers: all keys are read again
// however near the scores are.
TEST(Selection, LooseScansDoNotPauseForWhatNoListTells) {
  const rpc::BankSpec bank = testing::TestBank(DType::kBFloat16, DType::kBFloat16);
  const auto queries = testing::MakeQueries(bank, 2, 5);
  const testing::TinyBackend backend(/*device=*/true, 1e-6f);
  RoutingIndex index(backend, KeyShapeOf(bank), {});
  const auto add = [&](int64_t reference) {
    const auto document = testing::MakeDocument(
        bank, {.id = "d", .first_reference = reference, .seed = static_cast<uint64_t>(reference)});
    ASSERT_TRUE(index.Append({PartOf(document.parts[0])}).ok());
    index.Publish({reference}, {});
  };
  for (int64_t i = 0; i < 3; ++i) add(i);
  ScanSharer sharer(&backend, {});
  RankSums sums;
  SelectionCounts counts;
  const auto rank = [&](int32_t round, bool add_between, int32_t limit) {
    ASSERT_TRUE(sums.Begin(round).ok());
    for (int layer = 0; layer < 2; ++layer) {
      if (layer == 1 && add_between) add(3);
      auto scores = sharer.Score({}, {.index = &index,
                                      .shape = &bank.routing,
                                      .layer_index = layer,
                                      .queries = &queries,
                                      .loose = true});
      ASSERT_TRUE(scores.ok());
      ASSERT_TRUE(SelectBest(backend, &*scores, index.sequence(), 1, counts).ok());
      sums.Add(*scores, index.num_slots());
    }
    ASSERT_TRUE(
        sums.Rank(backend, round, index.View(), index.sequence(), {.limit = limit}, counts).ok());
  };
  rank(0, /*add_between=*/false, kernels::kMostListed + 1);
  EXPECT_EQ(counts.rescanned, 1);
  EXPECT_TRUE(counts.loose.allowed());
  rank(1, /*add_between=*/true, 1);
  EXPECT_EQ(counts.rescanned, 2);
  EXPECT_TRUE(counts.loose.allowed());
}

TEST(LooseScans, PausesAreOfRanksAndGrow) {
  LooseScans scans;
  for (const int64_t pause : {int64_t{64}, int64_t{256}, int64_t{1024}}) {
    EXPECT_TRUE(scans.allowed());
    scans.CountRank(/*loose=*/true);
    scans.Pause();
    for (int64_t i = 0; i < pause; ++i) {
      EXPECT_FALSE(scans.allowed());
      scans.CountRank(/*loose=*/false);
    }
  }
  EXPECT_TRUE(scans.allowed());
}

}  // namespace
}  // namespace msa::memory_node

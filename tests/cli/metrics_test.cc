// Against the values SQuAD's own evaluation script gives for these pairs, worked out by hand.
#include "cli/metrics.h"

#include <gtest/gtest.h>
#include <unicode/locid.h>

namespace msa::cli {
namespace {

TEST(MetricsTest, NormalizesAsSquadDoes) {
  EXPECT_EQ(NormalizeAnswer("The  U.S. Army, an\tÉlan!"), "us army élan");
  EXPECT_EQ(NormalizeAnswer("a"), "");
  EXPECT_EQ(NormalizeAnswer("5\u00a0km\u2009\n\vlong"), "5 km long");
  EXPECT_EQ(NormalizeAnswer("theatre"), "theatre");
}

// Whatever the language of who runs it: in Turkish a small I has no dot.
TEST(MetricsTest, NormalizesAlikeInEveryLanguage) {
  const icu::Locale before;
  UErrorCode error = U_ZERO_ERROR;
  icu::Locale::setDefault(icu::Locale("tr", "TR"), error);
  EXPECT_EQ(NormalizeAnswer("IRMA"), "irma");
  icu::Locale::setDefault(before, error);
}

TEST(MetricsTest, ExactMatchTakesTheBestGold) {
  EXPECT_EQ(ExactMatch("the 197 airports.", {"98", "197 airports"}), 1);
  EXPECT_EQ(ExactMatch("197", {"98", "197 airports"}), 0);
  EXPECT_EQ(ExactMatch("x", {}), 0);
}

TEST(MetricsTest, F1CountsRepeatedWordsOnceEach) {
  EXPECT_DOUBLE_EQ(F1("new york new york", {"new york"}), 2 * 0.5 * 1 / 1.5);
  EXPECT_DOUBLE_EQ(F1("in 1973 October", {"October 1973"}), 0.8);
  EXPECT_DOUBLE_EQ(F1("nothing shared", {"at all"}), 0);
  EXPECT_DOUBLE_EQ(F1("", {"x"}), 0);
  EXPECT_DOUBLE_EQ(F1("the", {"a"}), 1);
}

TEST(MetricsTest, RecallCountsAGoldDocumentOnce) {
  const std::vector<NamedDocument> ranked = {{"1", "Kenya"}, {"2", "Kenya"}, {"3", "Norway"}};
  EXPECT_DOUBLE_EQ(RecallAt(1, ranked, {"Kenya", "3"}), 0.5);
  EXPECT_DOUBLE_EQ(RecallAt(2, ranked, {"Kenya", "3"}), 0.5);
  EXPECT_DOUBLE_EQ(RecallAt(3, ranked, {"Kenya", "3"}), 1);
  EXPECT_DOUBLE_EQ(RecallAt(3, ranked, {"3", "3"}), 1);
  EXPECT_DOUBLE_EQ(RecallAt(9, ranked, {}), 0);
}

TEST(MetricsTest, PercentilesAreNearestRank) {
  EXPECT_EQ(Percentile({5, 1, 3, 2, 4}, 0.5), 3);
  EXPECT_EQ(Percentile({5, 1, 3, 2, 4}, 0.99), 5);
  EXPECT_EQ(Percentile({5, 1, 3, 2, 4}, 0.2), 1);
  EXPECT_EQ(Percentile({}, 0.5), 0);
  EXPECT_EQ(LatencyJson({1, 3})["mean"], 2.0);
}

}  // namespace
}  // namespace msa::cli

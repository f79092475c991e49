#include "cli/progress.h"

#include <gtest/gtest.h>

namespace msa::cli {
namespace {

TEST(ProgressLine, FitsAnyWidth) {
  const std::string text = "1,234 documents, 512 tokens/s, 0:09 left";
  EXPECT_EQ(ProgressLine(1, 2, text, 200), "[###############...............]  50%  " + text);
  // The bar gives way first, but not below ten cells; then the text is cut.
  EXPECT_EQ(ProgressLine(1, 2, text, 69), "[##########..........]  50%  " + text);
  EXPECT_EQ(ProgressLine(1, 2, text, 40), ("[#####.....]  50%  " + text).substr(0, 40));
  for (int columns = 0; columns < 100; ++columns) {
    EXPECT_LE(ProgressLine(3, 7, text, columns).size(), static_cast<size_t>(columns));
  }
}

TEST(ProgressLine, HasNoBarWhereTheEndIsUnknown) {
  EXPECT_EQ(ProgressLine(5, 0, "5 a", 80), "5 a");
}

TEST(ShortDuration, MinutesThenHours) {
  EXPECT_EQ(ShortDuration(absl::Seconds(9.7)), "0:09");
  EXPECT_EQ(ShortDuration(absl::Seconds(83)), "1:23");
  EXPECT_EQ(ShortDuration(absl::Seconds(5025)), "1:23:45");
  EXPECT_EQ(ShortDuration(absl::Seconds(-1)), "0:00");
}

}  // namespace
}  // namespace msa::cli

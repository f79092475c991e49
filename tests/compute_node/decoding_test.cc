#include "compute_node/decoding.h"

#include <limits>

#include "gtest/gtest.h"

namespace msa::compute_node {
namespace {

TEST(MarginTest, IsOverTheLargestOther) {
  EXPECT_EQ(Margin({1, 4, 2.5}, 1), 1.5f);
  EXPECT_EQ(Margin({1, 4, 2.5}, 0), -3.0f);
  EXPECT_EQ(Margin({4, 4}, 0), 0.0f);
}

TEST(LeastRefusedTest, IsTheSmallestMarginWhereverItStands) {
  EXPECT_EQ(LeastRefused({-1, 2, -3, 5}, 0), 2u);
  EXPECT_EQ(LeastRefused({-1, -4, -3, 5}, 0), 1u);
  EXPECT_EQ(LeastRefused({-1, 2, -3, -3.5f}, 0), 3u);
  EXPECT_EQ(LeastRefused({-1}, 99), 0u);
}

TEST(LeastRefusedTest, AllTogetherHaveToBeSoByMore) {
  EXPECT_EQ(LeastRefused({-4, 2, -3}, 0.5f), 0u);
  EXPECT_EQ(LeastRefused({-4, 2, -3}, 1.5f), 2u);
  EXPECT_EQ(LeastRefused({-4, 2, -5}, -1.5f), 0u);
}

TEST(LeastRefusedTest, OfEqualsAnEarlierOne) {
  EXPECT_EQ(LeastRefused({-4, -3, -3}, 1), 0u);
  EXPECT_EQ(LeastRefused({0, -3, -3}, 1), 1u);
}

TEST(LeastRefusedTest, WhatIsNoNumberIsNotTaken) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(LeastRefused({1, nan, -3, nan}, 0), 2u);
  EXPECT_EQ(LeastRefused({1, nan}, 0), 0u);
}

}  // namespace
}  // namespace msa::compute_node

// Tables found again by their content. No GPU needed.
#include "kernels/cuda/kept_tables.h"

#include <cstring>
#include <string>

#include "gtest/gtest.h"

namespace msa::kernels::cuda {
namespace {

Buffer HostBuffer(size_t bytes) {
  return Buffer(new char[bytes], bytes, [](void* data) { delete[] static_cast<char*>(data); });
}

class Copies {
 public:
  absl::StatusOr<Buffer> operator()(std::string_view content) {
    ++made;
    if (full) return absl::ResourceExhaustedError("full");
    Buffer buffer = HostBuffer(content.size());
    std::memcpy(buffer.data(), content.data(), content.size());
    return buffer;
  }
  int made = 0;
  bool full = false;
};

std::string ContentOf(const KeptTables::Table& table) {
  return {static_cast<const char*>(table->data()), table->size()};
}

TEST(KeptTables, TheSameContentIsCopiedOnce) {
  KeptTables tables;
  Copies copies;
  const auto copy = [&](std::string_view content) { return copies(content); };
  const auto first = *tables.Find("one", copy);
  const auto other = *tables.Find("two", copy);
  EXPECT_EQ(*tables.Find("one", copy), first);
  EXPECT_EQ(copies.made, 2);
  EXPECT_EQ(ContentOf(first), "one");
  EXPECT_EQ(ContentOf(other), "two");
}

TEST(KeptTables, WhatIsLetGoStaysWithWhoHoldsIt) {
  KeptTables tables;
  Copies copies;
  const auto copy = [&](std::string_view content) { return copies(content); };
  const auto held = *tables.Find("held", copy);
  const auto recent = *tables.Find("recent", copy);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(tables.Find(std::to_string(i), copy).ok());
    ASSERT_EQ(*tables.Find("recent", copy), recent);
  }
  EXPECT_EQ(copies.made, 1002);
  EXPECT_EQ(ContentOf(held), "held");
  EXPECT_NE(*tables.Find("held", copy), held);
  tables.Clear();
  EXPECT_EQ(ContentOf(recent), "recent");
}

TEST(KeptTables, ACopyThatFailsLeavesNothing) {
  KeptTables tables;
  Copies copies;
  copies.full = true;
  const auto copy = [&](std::string_view content) { return copies(content); };
  EXPECT_TRUE(absl::IsResourceExhausted(tables.Find("one", copy).status()));
  copies.full = false;
  EXPECT_EQ(ContentOf(*tables.Find("one", copy)), "one");
}

}  // namespace
}  // namespace msa::kernels::cuda

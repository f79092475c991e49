#include "common/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/memory_node/temp_folder.h"

namespace msa {
namespace {

using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    std::ofstream(path_, std::ios::binary) << text;
    return path_;
  }
  static std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

  testing::TempFolder folder_;
  const std::string path_ = folder_.path() + "/file";
};

TEST_F(FileTest, AllOfItComesBack) {
  for (const std::string& text : {std::string(), std::string("a\0\n\xff", 4),
                                  std::string(10000, 'x'), std::string(4096, 'y')}) {
    const auto read = ReadFile(Write(text), 1 << 20);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, text);
  }
}

TEST_F(FileTest, TheLimitIsTheLastSizeThatIsRead) {
  Write(std::string(5000, 'x'));
  EXPECT_EQ(ReadFile(path_, 5000)->size(), 5000u);
  const absl::Status larger = ReadFile(path_, 4999).status();
  EXPECT_TRUE(absl::IsResourceExhausted(larger)) << larger;
  EXPECT_THAT(MessageOf(larger), HasSubstr(path_ + " has more than 4999 bytes"));
  EXPECT_TRUE(absl::IsResourceExhausted(ReadFile("/dev/zero", 1 << 20).status()));
}

TEST_F(FileTest, APipeIsReadToItsEnd) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  const std::string text(200000, 'p');
  std::thread writer([&] { std::ofstream(path_) << text; });
  EXPECT_EQ(ReadFile(path_, text.size()).value_or(""), text);
  writer.join();
}

TEST_F(FileTest, WhatIsNoFileIsSaidByName) {
  const absl::Status folder = ReadFile(folder_.path(), 1).status();
  EXPECT_TRUE(absl::IsInvalidArgument(folder)) << folder;
  EXPECT_THAT(MessageOf(folder), HasSubstr(folder_.path() + ": it is a folder"));
  const absl::Status none = ReadFile(path_, 1).status();
  EXPECT_TRUE(absl::IsNotFound(none)) << none;
  EXPECT_THAT(MessageOf(none), HasSubstr(path_ + ": No such file"));
  EXPECT_TRUE(absl::IsNotFound(ReadFile(Write("") + "/under", 1).status()));
}

TEST_F(FileTest, AFileOfOthersIsSaidByName) {
  if (geteuid() == 0) GTEST_SKIP() << "root reads every file";
  std::filesystem::permissions(Write("x"), std::filesystem::perms::none);
  const absl::Status refused = ReadFile(path_, 1).status();
  EXPECT_TRUE(absl::IsPermissionDenied(refused)) << refused;
  EXPECT_THAT(MessageOf(refused), HasSubstr(path_ + ": Permission denied"));
}

}  // namespace
}  // namespace msa

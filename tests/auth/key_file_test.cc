#include "auth/key_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/strings.h"
#include "tests/memory_node/temp_folder.h"

namespace msa::auth {
namespace {

using ::testing::HasSubstr;

// SHA-256 of "abc".
constexpr char kHash[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

std::string Entry(const std::string& name, const std::string& hash = kHash,
                  const std::string& rights = R"([{"bank": "b", "right": "read"}])") {
  return StrCat(R"({"name": ")", name, R"(", "sha256": ")", hash, R"(", "rights": )", rights, "}");
}
std::string File(const std::string& entries) {
  return StrCat(R"({"version": 1, "keys": [)", entries, "]}");
}

TEST(ParseKeys, ReadsWhatTheDocsShow) {
  const auto keys = ParseKeys(File(Entry(
      "ana", kHash, R"([{"bank": "*", "right": "read"}, {"bank": "notes", "right": "admin"}])")));
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 1u);
  EXPECT_EQ((*keys)[0].name, "ana");
  EXPECT_EQ((*keys)[0].sha256, Sha256("abc"));
  EXPECT_TRUE((*keys)[0].May(Right::kAdmin, "notes"));
  EXPECT_FALSE((*keys)[0].May(Right::kWrite, "other"));
  EXPECT_TRUE(ParseKeys(File("")).ok()) << "nobody gets in";
}

TEST(ParseKeys, WhatIsWrittenIsReadTheSame) {
  const std::string text = FormatKeys(*ParseKeys(File(Entry("ana é \\\" x"))));
  EXPECT_EQ(FormatKeys(*ParseKeys(text)), text);
}

TEST(ParseKeys, WhatIsNotInOrderIsRefusedByItsPlace) {
  const std::string other(64, '0');
  const std::vector<std::pair<std::string, std::string>> faults = {
      {"", "not a JSON object"},
      {"[]", "not a JSON object"},
      {R"({"version": 1})", "the file has no \"keys\""},
      {R"({"version": 2, "keys": []})", "\"version\" must be 1"},
      {R"({"version": 1, "keys": [], "comment": ""})", "unknown field \"comment\""},
      {R"({"version": 1, "keys": {}})", "\"keys\" must be a list"},
      {R"({"version": 1, "keys": [], "keys": []})", "field \"keys\" twice"},
      {File("3"), "keys[0] is not an object"},
      {File(R"({"name": "a", "sha256": "x"})"), "keys[0] has no \"rights\""},
      {File(R"({"name": "a", "key": "x", "sha256": "x", "rights": []})"), "unknown field \"key\""},
      {File(Entry("")), "keys[0].name must be UTF-8 of 1 to 128"},
      {File(Entry("a\\n")), "without control characters"},
      {File(Entry("a", "abc")), "keys[0].sha256 must be 64 hexadecimal digits"},
      {File(Entry("a", std::string(64, 'A'))), "keys[0].sha256 must be 64 hexadecimal digits"},
      {File(Entry("a") + "," + Entry("a", other)), "keys[1]: the name 'a' is used twice"},
      {File(Entry("a") + "," + Entry("b")), "keys[1]: the sha256 of 'b' is another key's"},
      {File(Entry("a", kHash, "[]")), "keys[0].rights must be a list of 1 to 256"},
      {File(Entry("a", kHash, "{}")), "keys[0].rights must be a list"},
      {File(Entry("a", kHash, R"([{"bank": "", "right": "read"}])")), "rights[0].bank must be"},
      {File(Entry("a", kHash, R"([{"bank": "b", "right": "own"}])")), "use read, write or admin"},
      {File(Entry("a", kHash, R"([{"bank": "b", "right": 1}])")), "use read, write or admin"},
      {File(Entry("a", kHash, R"([{"bank": "b", "right": "read", "right": "admin"}])")),
       "field \"right\" twice"},
      {File(Entry("a", kHash,
                  R"([{"bank": "b", "right": "read"}, {"bank": "b", "right": "admin"}])")),
       "rights[1]: bank 'b' comes twice"},
  };
  for (const auto& [text, why] : faults) {
    const auto keys = ParseKeys(text);
    EXPECT_TRUE(absl::IsInvalidArgument(keys.status())) << text;
    EXPECT_THAT(std::string(keys.status().message()), HasSubstr(why)) << text;
  }
}

class KeyFile : public ::testing::Test {
 protected:
  std::string Write(const std::string& text, int mode = 0600) {
    std::ofstream(path_, std::ios::binary) << text;
    EXPECT_EQ(chmod(path_.c_str(), mode), 0);
    return path_;
  }
  absl::Status Add(const std::string& name) {
    return ChangeKeys(path_, [&](std::vector<ApiKey>* keys) {
      keys->push_back({name, Sha256(name), {{"b", Right::kRead}}});
      return absl::OkStatus();
    });
  }
  int Mode() const {
    struct stat info = {};
    EXPECT_EQ(stat(path_.c_str(), &info), 0);
    return info.st_mode & 07777;
  }

  msa::testing::TempFolder folder_;
  const std::string path_ = folder_.path() + "/keys.json";
};

TEST_F(KeyFile, ThatOthersMayWriteIsRefused) {
  for (const int mode : {0620, 0602, 0666}) {
    const auto keys = ReadKeys(Write(File(""), mode));
    EXPECT_TRUE(absl::IsFailedPrecondition(keys.status())) << mode;
    EXPECT_THAT(std::string(keys.status().message()), HasSubstr(path_ + ": others than its owner"));
  }
  for (const int mode : {0600, 0644, 0400}) EXPECT_TRUE(ReadKeys(Write(File(""), mode)).ok());
}

TEST_F(KeyFile, ThatIsNoneIsRefused) {
  EXPECT_TRUE(absl::IsNotFound(ReadKeys(path_).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(ReadKeys(folder_.path()).status()));
  const auto broken = ReadKeys(Write("{"));
  EXPECT_THAT(std::string(broken.status().message()), HasSubstr(path_ + ": not a JSON object"));
  const auto large = ReadKeys(Write(std::string(kMaxKeyFileBytes + 1, ' ')));
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("bytes at most"));
}

TEST_F(KeyFile, IsMadeForItsOwnerAloneAndKeepsItsMode) {
  ASSERT_TRUE(Add("a").ok());
  EXPECT_EQ(Mode(), 0600);
  ASSERT_EQ(chmod(path_.c_str(), 0640), 0);
  ASSERT_TRUE(Add("b").ok());
  EXPECT_EQ(Mode(), 0640);
  EXPECT_EQ(ReadKeys(path_)->size(), 2u);
}

TEST_F(KeyFile, AChangeThatFailsLeavesItAsItIs) {
  ASSERT_TRUE(Add("a").ok());
  EXPECT_FALSE(ChangeKeys(path_, [](std::vector<ApiKey>* keys) {
                 keys->clear();
                 return absl::NotFoundError("no");
               }).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Add("a"))) << "what could not be read again";
  EXPECT_TRUE(absl::IsInvalidArgument(Add("\xFF")));
  EXPECT_EQ(ReadKeys(path_)->size(), 1u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

TEST_F(KeyFile, ALinkStaysOne) {
  ASSERT_TRUE(Add("a").ok());
  const std::string link = folder_.path() + "/link.json";
  std::filesystem::create_symlink(path_, link);
  ASSERT_TRUE(ChangeKeys(link, [](std::vector<ApiKey>* keys) {
                keys->clear();
                return absl::OkStatus();
              }).ok());
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_TRUE(ReadKeys(path_)->empty());
}

TEST_F(KeyFile, ChangesAtOnceAreAllKept) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([this, i] { EXPECT_TRUE(Add(StrCat("key-", i)).ok()); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ReadKeys(path_)->size(), 16u);
}

}  // namespace
}  // namespace msa::auth

#include "cli/document_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <ios>
#include <sstream>
#include <streambuf>

namespace msa::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DocumentReaderTest : public ::testing::Test {
 protected:
  DocumentReaderTest() : folder_(::testing::TempDir() + "msa_reader_XXXXXX") {
    if (mkdtemp(folder_.data()) == nullptr) ADD_FAILURE() << "no temporary folder";
  }
  ~DocumentReaderTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& bytes) {
    const std::string path = folder_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  std::vector<ReadDocument> ReadAll(const std::vector<std::string>& paths) {
    absl::StatusOr<DocumentReader> reader = DocumentReader::Open(paths, in_);
    if (!reader.ok()) {
      ADD_FAILURE() << reader.status().message();
      return {};
    }
    std::vector<ReadDocument> all;
    while (std::optional<ReadDocument> next = reader->Next()) all.push_back(*std::move(next));
    skipped_ = reader->skipped_files();
    EXPECT_EQ(reader->consumed_bytes(), reader->total_bytes());
    return all;
  }

  static std::vector<std::string> Ids(const std::vector<ReadDocument>& read) {
    std::vector<std::string> ids;
    for (const ReadDocument& one : read) ids.push_back(one.document.id);
    return ids;
  }

  std::string folder_;
  std::istringstream in_;
  int64_t skipped_ = 0;
};

TEST_F(DocumentReaderTest, AFileTooLargeForADocumentIsRefusedAlone) {
  std::filesystem::resize_file(Write("f/long.txt", "x"), (32 << 20) + 1);
  Write("f/short.txt", "short");
  const std::vector<ReadDocument> read = ReadAll({folder_ + "/f"});
  ASSERT_EQ(read.size(), 2u);
  EXPECT_TRUE(absl::IsInvalidArgument(read[0].status)) << read[0].status;
  EXPECT_THAT(std::string(read[0].status.message()),
              HasSubstr("long.txt has more than 33554432 bytes"));
  EXPECT_EQ(read[1].document.text, "short");
}

TEST_F(DocumentReaderTest, FoldersGiveRelativePathsInOrder) {
  Write("f/b/two.md", "# Two");
  Write("f/a.txt", "one");
  Write("f/b/three.jsonl", "{\"id\":\"x\",\"text\":\"three\"}\n");
  Write("f/picture.png", "no text");
  const std::vector<ReadDocument> read = ReadAll({folder_ + "/f"});
  EXPECT_THAT(Ids(read), ElementsAre("a.txt", "x", "b/two.md"));
  EXPECT_EQ(read[0].document.text, "one");
  EXPECT_EQ(skipped_, 1);
}

TEST_F(DocumentReaderTest, LinksThatAreNotFollowedAreCounted) {
  const std::string file = Write("f/a.txt", "\xEF\xBB\xBFone");
  Write("other/b.txt", "two");
  std::filesystem::create_symlink(file, folder_ + "/f/c.txt");
  std::filesystem::create_symlink(folder_ + "/none.txt", folder_ + "/f/broken.txt");
  std::filesystem::create_directory_symlink(folder_ + "/other", folder_ + "/f/d");
  const std::vector<ReadDocument> read = ReadAll({folder_ + "/f"});
  EXPECT_THAT(Ids(read), ElementsAre("a.txt", "c.txt"));
  EXPECT_EQ(read[0].document.text, "one") << "without the byte order mark";
  EXPECT_EQ(skipped_, 2);
}

TEST_F(DocumentReaderTest, OnlyNewlinesEndALine) {
  // U+2028 inside a string, a carriage return before the newline, no newline at the end.
  const auto read = ReadAll(
      {Write("d.jsonl",
             "{\"id\":\"a\",\"text\":\"x\u2028y\"}\r\n\n{\"id\":\"b\",\"text\":\"z \\u00e9\"}")});
  ASSERT_THAT(Ids(read), ElementsAre("a", "b"));
  EXPECT_EQ(read[0].document.text, "x\u2028y");
  EXPECT_EQ(read[1].document.text, "z é");
  EXPECT_THAT(read[1].where, HasSubstr("d.jsonl:3"));
}

TEST_F(DocumentReaderTest, CompressedLinesAreReadThroughAndDamageIsNamed) {
  std::string plain;
  for (int i = 0; i < 20000; ++i) {
    plain +=
        "{\"id\":\"" + std::to_string(i) + "\",\"text\":\"" + std::to_string(i * 7919) + "\"}\n";
  }
  std::string packed(ZSTD_compressBound(plain.size()), '\0');
  packed.resize(ZSTD_compress(packed.data(), packed.size(), plain.data(), plain.size(), 3));
  const auto read = ReadAll({Write("d.jsonl.zst", packed)});
  ASSERT_EQ(read.size(), 20000u);
  EXPECT_EQ(read.back().document.text, std::to_string(19999 * 7919));

  const auto torn = ReadAll({Write("torn.jsonl.zst", packed.substr(0, packed.size() / 2))});
  EXPECT_EQ(torn.back().status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(torn.back().status.message()), HasSubstr("torn.jsonl.zst is damaged"));
}

// Gives `text`, then fails as a disk does.
class FailingStreambuf : public std::streambuf {
 public:
  explicit FailingStreambuf(std::string text) : text_(std::move(text)) {
    setg(text_.data(), text_.data(), text_.data() + text_.size());
  }

 protected:
  int_type underflow() override { throw std::ios_base::failure("the disk fails"); }

 private:
  std::string text_;
};

TEST_F(DocumentReaderTest, WhatCannotBeReadToItsEndIsNotTakenForItsEnd) {
  FailingStreambuf failing("{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"b\",");
  std::istream in(&failing);
  absl::StatusOr<DocumentReader> reader = DocumentReader::Open({"-"}, in);
  ASSERT_TRUE(reader.ok());
  EXPECT_TRUE(reader->Next()->status.ok());
  const std::optional<ReadDocument> second = reader->Next();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(second->status.message()), HasSubstr("past line 1"));
  EXPECT_FALSE(reader->Next().has_value());

  // Its first byte cannot be read.
  std::filesystem::create_symlink("/proc/self/mem", folder_ + "/mem.txt");
  std::filesystem::create_symlink("/proc/self/mem", folder_ + "/mem.jsonl");
  for (const char* name : {"/mem.txt", "/mem.jsonl"}) {
    const auto read = ReadAll({folder_ + name});
    ASSERT_EQ(read.size(), 1u) << name;
    EXPECT_EQ(read[0].status.code(), absl::StatusCode::kDataLoss) << read[0].status;
  }
}

TEST_F(DocumentReaderTest, SaysWhatIsWrongWithALine) {
  const std::pair<const char*, const char*> cases[] = {
      {"[1]", "a JSON object is expected"},
      {"{\"text\":\"x\"}", "\"id\" is missing"},
      {"{\"id\":7,\"text\":\"x\"}", "\"id\" must be a string"},
      {"{\"id\":\"a\"}", "\"text\" is missing"},
      {"{\"id\":\"a\",\"text\":null}", "\"text\" is missing"},
      {"{\"id\":\"a\",\"text\":\"x\",\"metadata\":[]}", "\"metadata\" must be an object"},
      {"{\"id\":\"a\",\"text\":\"\xFF\"}", "not valid UTF-8 at byte 18 of the line"},
      {"{\"id\":\"a\",", "not JSON"},
  };
  for (const auto& [line, message] : cases) {
    rpc::NewDocument document;
    const absl::Status status = ParseDocumentLine(line, &document);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << line;
  }
}

TEST_F(DocumentReaderTest, ALineNestedDeepIsRefused) {
  const auto line = [](size_t depth) {
    return "{\"id\":\"a\",\"text\":\"\\\"[[\",\"metadata\":{\"m\":" + std::string(depth, '[') +
           std::string(depth, ']') + "}}";
  };
  rpc::NewDocument document;
  EXPECT_TRUE(ParseDocumentLine(line(900), &document).ok());
  EXPECT_EQ(document.text, "\"[[");
  const absl::Status status = ParseDocumentLine(line(2'000'000), &document);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nested more than"));
}

TEST_F(DocumentReaderTest, RefusesUnknownKindsBeforeReading) {
  const auto reader = DocumentReader::Open({Write("a.pdf", "%PDF")}, in_);
  EXPECT_EQ(reader.status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* ending :
       {".jsonl", ".ndjson", ".json", ".jsonl.zst", ".json.zst", ".txt", ".md"}) {
    EXPECT_TRUE(DocumentReader::Open({Write(std::string("a") + ending, "")}, in_).ok()) << ending;
    EXPECT_THAT(std::string(reader.status().message()), HasSubstr(ending));
  }
  EXPECT_EQ(DocumentReader::Open({folder_ + "/none"}, in_).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace msa::cli

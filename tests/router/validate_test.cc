#include "router/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "common/limits.h"

namespace msa::router {
namespace {

using ::testing::HasSubstr;

void ExpectRefused(const absl::Status& status, const std::string& words) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(words));
}

rpc::NewDocument Good() { return {"id", "title", "text", R"({"a": 1})"}; }

TEST(Validate, AcceptsWhatIsLegal) {
  EXPECT_TRUE(CheckDocument(Good()).ok());
  rpc::NewDocument document = Good();
  document.id = "ünï/code id " + std::string(400, 'x');
  document.text = std::string("nul \0 inside", 12);
  document.metadata = "";
  EXPECT_TRUE(CheckDocument(document).ok()) << CheckDocument(document);
  document.text = "";
  document.title = "";
  EXPECT_TRUE(CheckDocument(document).ok());
  document.text = std::string(kMaxDocumentTextBytes, 'x');
  EXPECT_TRUE(CheckDocument(document).ok());
  document.id = std::string(kMaxDocumentIdBytes, 'i');
  EXPECT_TRUE(CheckDocument(document).ok());
}

TEST(Validate, IdsAreNamesOfBoundedSize) {
  ExpectRefused(CheckDocumentId(""), "empty");
  ExpectRefused(CheckDocumentId(std::string(10240, 'x')), "10240 bytes, the limit is 512");
  ExpectRefused(CheckDocumentId("a\nb"), "control character at byte 1");
  ExpectRefused(CheckDocumentId(std::string("a\0b", 3)), "control character at byte 1");
  ExpectRefused(CheckDocumentId("\x7F"), "control character");
  ExpectRefused(CheckDocumentId("a\xC2\x85"), "control character at byte 1");
  ExpectRefused(CheckDocumentId("ab\xFF"), "not valid UTF-8 at byte 2");
}

TEST(Validate, TextsTitlesAndMetadata) {
  rpc::NewDocument document = Good();
  document.text = std::string(kMaxDocumentTextBytes + 1, 'x');
  ExpectRefused(CheckDocument(document), "the limit is 33554432");
  document = Good();
  document.text = "abc\xED\xA0\x80";
  ExpectRefused(CheckDocument(document), "the text is not valid UTF-8 at byte 3");
  document = Good();
  document.title = "\xC0\x80";
  ExpectRefused(CheckDocument(document), "the title is not valid UTF-8");
  document = Good();
  document.title = std::string(kMaxDocumentTitleBytes + 1, 't');
  ExpectRefused(CheckDocument(document), "the limit is 4096");
  for (const char* bad : {"[1]", "1", "{", "{\"a\": }", "null", " ", "{} {}"}) {
    document = Good();
    document.metadata = bad;
    ExpectRefused(CheckDocument(document), "not a JSON object");
  }
  document.metadata = "{\"a\": \"" + std::string(kMaxDocumentMetadataBytes, 'm') + "\"}";
  ExpectRefused(CheckDocument(document), "the limit is 65536");
  // As deep as fits: must not recurse.
  document.metadata = "{\"a\":" + std::string(30000, '[') + std::string(30000, ']') + "}";
  EXPECT_TRUE(CheckDocument(document).ok());
}

TEST(Validate, Questions) {
  rpc::GenerateRequest request;
  request.bank = "default";
  request.question = "why?";
  EXPECT_TRUE(CheckRequest(request).ok());
  const auto with = [&request](auto change) {
    rpc::GenerateRequest changed = request;
    change(changed);
    return CheckRequest(changed);
  };
  ExpectRefused(with([](auto& r) { r.question = ""; }), "the question is empty");
  ExpectRefused(with([](auto& r) { r.question = std::string(10u << 20, 'q'); }),
                "10485760 bytes, the limit is 65536");
  ExpectRefused(with([](auto& r) { r.question = "a\xFF"; }), "not valid UTF-8 at byte 1");
  ExpectRefused(with([](auto& r) { r.mode = "both"; }), "generative or router");
  ExpectRefused(with([](auto& r) { r.top_k = 0; }), "top_k is 0: use 1 to 1024");
  ExpectRefused(with([](auto& r) { r.top_k = 1025; }), "1024");
  ExpectRefused(with([](auto& r) { r.max_rounds = 33; }), "1 to 32");
  ExpectRefused(with([](auto& r) { r.max_new_tokens = 8193; }), "1 to 8192");
  ExpectRefused(with([](auto& r) { r.reader_documents = -1; }), "reader_documents is -1");
  ExpectRefused(with([](auto& r) { r.temperature = std::numeric_limits<float>::quiet_NaN(); }),
                "temperature");
  ExpectRefused(with([](auto& r) { r.bank = ""; }), "the bank's name is empty");
}

TEST(Validate, Retrievals) {
  rpc::RetrieveRequest request;
  request.bank = "default";
  request.question = "why?";
  ExpectRefused(CheckRequest(request), "limit is 0: use 1 to 10000");
  request.limit = 10000;
  EXPECT_TRUE(CheckRequest(request).ok());
  request.limit = 10001;
  ExpectRefused(CheckRequest(request), "10000");
}

}  // namespace
}  // namespace msa::router

// Documents as JSON lines, plain or compressed by zstd (told apart by zstd's magic bytes), and as
// text. A line that is read is written as JSON and read the same.
#include <sstream>
#include <string>

#include "cli/document_reader.h"
#include "cli/json.h"
#include "common/check.h"
#include "common/limits.h"
#include "tests/fuzz/target.h"

namespace msa::cli {
namespace {

void CheckReadsTheSame(const rpc::NewDocument& document) {
  MSA_CHECK(document.text.size() <= kMaxDocumentTextBytes);
  Json json = {{"id", document.id}, {"title", document.title}, {"text", document.text}};
  if (!document.metadata.empty()) {
    json["metadata"] = Json::parse(document.metadata, nullptr, /*allow_exceptions=*/false);
  }
  rpc::NewDocument again;
  MSA_CHECK(ParseDocumentLine(Dump(json), &again).ok());
  MSA_CHECK(again.id == document.id && again.title == document.title);
  MSA_CHECK(again.text == document.text && again.metadata == document.metadata);
}

void Try(const std::string& path, bool is_json) {
  std::istringstream nothing;
  auto reader = DocumentReader::Open({path}, nothing);
  MSA_CHECK(reader.ok());
  while (const auto read = reader->Next()) {
    MSA_CHECK(!read->where.empty());
    if (!read->status.ok()) {
      fuzz::CheckRefusal(read->status);
    } else if (is_json) {
      CheckReadsTheSame(read->document);
    }
  }
  MSA_CHECK(reader->consumed_bytes() <= reader->total_bytes() + 1);  // of the last line's end
}

}  // namespace
}  // namespace msa::cli

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static msa::fuzz::InputFile lines("documents.jsonl");
  static msa::fuzz::InputFile compressed("documents.jsonl.zst");
  static msa::fuzz::InputFile text("document.txt");
  const std::string_view bytes = msa::fuzz::View(data, size);
  msa::fuzz::InputFile& file = bytes.starts_with("\x28\xB5\x2F\xFD") ? compressed : lines;
  file.Write(bytes);
  msa::cli::Try(file.path(), true);
  text.Write(bytes);
  msa::cli::Try(text.path(), false);
  return 0;
}

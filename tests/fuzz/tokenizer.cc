// tokenizer.json. One that is accepted encodes texts of every kind into ids that it has, with
// places in the text, and decodes them, at once or one by one, to the same.
#include "compute_node/model/tokenizer.h"

#include <string>
#include <vector>

#include "common/check.h"
#include "common/utf8.h"
#include "tests/fuzz/target.h"

namespace msa::compute_node {
namespace {

// Short: an expression may take time exponential in them.
constexpr const char* kTexts[] = {"", " ", "Hello, it's 2024!\n\n  <|im_start|>user",
                                  "Größe e\xCC\x81 \xF0\x9F\x98\x80 \xE4\xBD\xA0\xE5\xA5\xBD"};

void CheckEncoding(const Tokenizer& tokenizer, const Tokenizer::Text& text) {
  const auto encoding = tokenizer.EncodeWithOffsets(text);
  if (!encoding.ok()) return fuzz::CheckRefusal(encoding.status());
  MSA_CHECK(encoding->ids.size() == encoding->offsets.size());
  for (const ByteRange& range : encoding->offsets) {
    MSA_CHECK(range.begin <= range.end && range.end <= text.utf8.size());
  }
  std::string streamed;
  Tokenizer::StreamDecoder decoder(tokenizer, /*skip_special=*/true);
  for (const int32_t id : encoding->ids) {
    MSA_CHECK(id >= 0 && id < tokenizer.vocab_size());
    streamed += decoder.Push(id);
  }
  streamed += decoder.Flush();
  MSA_CHECK(streamed == tokenizer.Decode(encoding->ids, /*skip_special=*/true));
  MSA_CHECK(IsUtf8(streamed));
}

void Try(const std::string& path) {
  const auto tokenizer = Tokenizer::Load(path);
  if (!tokenizer.ok()) return fuzz::CheckRefusal(tokenizer.status());
  for (const char* text : kTexts) {
    Tokenizer::Text ours;
    ours.Append(text);
    CheckEncoding(**tokenizer, ours);
    Tokenizer::Text users;
    users.Append("<|im_start|>");
    users.AppendLiteral(text);
    CheckEncoding(**tokenizer, users);
  }
}

}  // namespace
}  // namespace msa::compute_node

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static msa::fuzz::InputFile file("tokenizer.json");
  file.Write(msa::fuzz::View(data, size));
  msa::compute_node::Try(file.path());
  return 0;
}

#include "rpc/utf8.h"

#include <unicode/utf8.h>

#include <cstdint>
#include <cstring>

namespace msa::rpc {
namespace {

// Offset from which on `text` is not plain ASCII, in steps of 8: most text is, and the general loop
// below is ten times slower.
size_t SkipAscii(std::string_view text, size_t at) {
  while (at + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    if (word & 0x8080808080808080u) break;
    at += 8;
  }
  return at;
}

}  // namespace

std::optional<size_t> FirstInvalidUtf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  size_t at = SkipAscii(text, 0);
  while (at < text.size()) {
    const size_t start = at;
    UChar32 code_point;
    U8_NEXT(bytes, at, text.size(), code_point);
    if (code_point < 0) return start;
    if (code_point < 0x80) at = SkipAscii(text, at);
  }
  return std::nullopt;
}

}  // namespace msa::rpc

#include "common/utf8.h"

#include <cstring>

namespace msa {
namespace {

// What may follow a leading byte (Unicode 15, table 3-7): the bounds of the second byte exclude
// overlong forms, surrogates and everything past U+10FFFF.
struct Lead {
  size_t size;  // 0: no character begins with it
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

Lead LeadOf(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {0};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Bytes below 0x80 at the start of `text`, eight at a time.
size_t AsciiPrefix(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (i < text.size() && static_cast<uint8_t>(text[i]) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Char NextUtf8(std::string_view text) {
  const auto byte_at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const Lead lead = LeadOf(byte_at(0));
  if (lead.size == 0) return {Utf8State::kIllFormed, 1, 0};
  if (lead.size == 1) return {Utf8State::kWhole, 1, byte_at(0)};
  char32_t code_point = byte_at(0) & (0x7F >> lead.size);
  for (size_t i = 1; i < lead.size; ++i) {
    if (i == text.size()) return {Utf8State::kIncomplete, i, 0};
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte_at(i) < min || byte_at(i) > max) return {Utf8State::kIllFormed, i, 0};
    code_point = code_point << 6 | (byte_at(i) & 0x3F);
  }
  return {Utf8State::kWhole, lead.size, code_point};
}

std::optional<size_t> FirstInvalidUtf8(std::string_view text) {
  size_t i = 0;
  while (true) {
    i += AsciiPrefix(text.substr(i));
    if (i == text.size()) return std::nullopt;
    const Utf8Char next = NextUtf8(text.substr(i));
    if (next.state != Utf8State::kWhole) return i;
    i += next.size;
  }
}

void AppendReplacingInvalidUtf8(std::string_view bytes, std::string* out) {
  while (!bytes.empty()) {
    const size_t valid = FirstInvalidUtf8(bytes).value_or(bytes.size());
    out->append(bytes.substr(0, valid));
    bytes.remove_prefix(valid);
    if (bytes.empty()) return;
    out->append(kReplacement);
    bytes.remove_prefix(NextUtf8(bytes).size);
  }
}

std::string_view CutUtf8(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return text;
  while (bytes > 0 && !IsUtf8CharStart(text[bytes])) --bytes;
  return text.substr(0, bytes);
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto add = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) return add(code_point);
  if (code_point < 0x800) {
    add(0xC0 | code_point >> 6);
  } else {
    if (code_point < 0x10000) {
      add(0xE0 | code_point >> 12);
    } else {
      add(0xF0 | code_point >> 18);
      add(0x80 | (code_point >> 12 & 0x3F));
    }
    add(0x80 | (code_point >> 6 & 0x3F));
  }
  add(0x80 | (code_point & 0x3F));
}

}  // namespace msa

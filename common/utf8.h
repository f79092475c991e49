// UTF-8 one character at a time: validation with a position (Unicode table 3-7: no surrogates, no
// overlong forms, nothing past U+10FFFF), and the replacement rule of Unicode and of Hugging Face's
// decoders (every maximal ill-formed subpart becomes one U+FFFD).
#ifndef MSA_COMMON_UTF8_H_
#define MSA_COMMON_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace msa {

enum class Utf8State {
  kWhole,       // a well-formed character
  kIllFormed,   // bytes that no character begins with
  kIncomplete,  // the text ends inside a character that is well-formed so far
};

struct Utf8Char {
  Utf8State state;
  size_t size;          // bytes, at least 1
  char32_t code_point;  // of a whole character
};

// The character that `text` begins with. REQUIRES: !text.empty().
Utf8Char NextUtf8(std::string_view text);

// The byte at which the first ill-formed or incomplete character begins; nullopt when there is
// none.
std::optional<size_t> FirstInvalidUtf8(std::string_view text);

inline bool IsUtf8(std::string_view text) { return !FirstInvalidUtf8(text).has_value(); }

// Appends `bytes`, ill-formed and incomplete parts replaced by U+FFFD.
void AppendReplacingInvalidUtf8(std::string_view bytes, std::string* out);

// Appends the UTF-8 form of a code point. REQUIRES: below U+110000 and no surrogate.
void AppendUtf8(char32_t code_point, std::string* out);

// True for the first byte of a character, false for the bytes that continue one.
constexpr bool IsUtf8CharStart(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; }

// Up to `bytes` bytes of UTF-8, as whole characters.
std::string_view CutUtf8(std::string_view text, size_t bytes);

}  // namespace msa

#endif  // MSA_COMMON_UTF8_H_

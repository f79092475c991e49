#include "compute_node/model/byte_level.h"

#include <array>

#include "common/utf8.h"

namespace msa::compute_node {
namespace {

constexpr char32_t kAlphabetEnd = 0x100 + 68;  // 68 bytes are not printable in Latin-1

struct Alphabet {
  std::array<char32_t, 256> char_of_byte{};
  std::array<int16_t, kAlphabetEnd> byte_of_char{};  // -1: not in the alphabet
};

constexpr bool IsPrintable(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  alphabet.byte_of_char.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t c = IsPrintable(byte) ? static_cast<char32_t>(byte) : next++;
    alphabet.char_of_byte[byte] = c;
    alphabet.byte_of_char[c] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

char32_t ByteLevelChar(uint8_t byte) { return kAlphabet.char_of_byte[byte]; }

std::optional<std::string> BytesOfByteLevel(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Char next = NextUtf8(token);
    if (next.state != Utf8State::kWhole || next.code_point >= kAlphabetEnd) return std::nullopt;
    const int byte = kAlphabet.byte_of_char[next.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    token.remove_prefix(next.size);
  }
  return bytes;
}

}  // namespace msa::compute_node

#include "common/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace msa {
namespace {

// A decoder straight from RFC 3629's grammar, byte by byte.
size_t FirstBad(const std::string& text) {
  const auto at = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto in = [&](size_t i, unsigned low, unsigned high) {
    return at(i) >= low && at(i) <= high && i < text.size();
  };
  const auto tail = [&](size_t i) { return in(i, 0x80, 0xBF); };
  for (size_t i = 0; i < text.size();) {
    const unsigned b = at(i);
    if (b < 0x80) {
      i += 1;
    } else if (b >= 0xC2 && b <= 0xDF && tail(i + 1)) {
      i += 2;
    } else if (((b == 0xE0 && in(i + 1, 0xA0, 0xBF)) || (b >= 0xE1 && b <= 0xEC && tail(i + 1)) ||
                (b == 0xED && in(i + 1, 0x80, 0x9F)) || (b >= 0xEE && b <= 0xEF && tail(i + 1))) &&
               tail(i + 2)) {
      i += 3;
    } else if (((b == 0xF0 && in(i + 1, 0x90, 0xBF)) || (b >= 0xF1 && b <= 0xF3 && tail(i + 1)) ||
                (b == 0xF4 && in(i + 1, 0x80, 0x8F))) &&
               tail(i + 2) && tail(i + 3)) {
      i += 4;
    } else {
      return i;
    }
  }
  return text.size();
}

TEST(Utf8, EqualsTheGrammarOnRandomBytes) {
  std::mt19937 random(7);
  const std::string pieces[] = {
      "plain ascii text",  "é", "€", "𝄞", "\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80",
      std::string(1, '\0')};
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (int n = random() % 6; n > 0; --n) {
      text += random() % 4 == 0 ? std::string(1, static_cast<char>(random()))
                                : pieces[random() % std::size(pieces)];
    }
    const size_t bad = FirstBad(text);
    const auto found = FirstInvalidUtf8(text);
    ASSERT_EQ(found.value_or(text.size()), bad) << ::testing::PrintToString(text);
    ASSERT_EQ(IsUtf8(text), bad == text.size());
  }
}

}  // namespace
}  // namespace msa

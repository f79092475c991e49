#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <string_view>

namespace msa::fuzz {
namespace {

constexpr std::array<uint64_t, 12> kLengths = {
    0,          1,          UINT64_MAX,         0x7F,        0x80,     0xFFFF,
    0x7FFFFFFF, 0x80000000, 0x7FFFFFFFFFFFFFFF, 0x100000000, 1u << 20, uint64_t{1} << 40};
constexpr std::array<std::string_view, 14> kNumbers = {"0",          "1",
                                                       "-1",         "2147483647",
                                                       "2147483648", "4294967296",
                                                       "1e-45",      "1e39",
                                                       "1e308",      "9223372036854775807",
                                                       "0.5",        "1000000000",
                                                       "1e999",      "18446744073709551615"};
constexpr std::array<std::string_view, 12> kWords = {
    "null", "true", "false", "{}",       "[]",           "\"\"",
    ",",    "\"",   "\\",    "\xC3\x28", "\xEF\xBB\xBF", "\\ud800"};
constexpr int kMostChanges = 4;
constexpr size_t kDeepest = 200'000;  // a stack holds fewer calls

}  // namespace

size_t Mutator::Below(size_t end) { return end == 0 ? 0 : random_() % end; }

std::string Mutator::Make(uint64_t run) {
  random_.seed(seed_ * 0x9E3779B97F4A7C15 + run);
  std::string bytes = AnySeed();
  const size_t changes = 1 + Below(kMostChanges);
  for (size_t i = 0; i < changes; ++i) Change(&bytes);
  if (bytes.size() > kMaxInputBytes) bytes.resize(kMaxInputBytes);
  return bytes;
}

void Mutator::Change(std::string* bytes) {
  using Kind = void (Mutator::*)(std::string*);
  static constexpr std::array<Kind, 10> kKinds = {
      &Mutator::FlipBit,      &Mutator::SetByte,         &Mutator::Truncate,
      &Mutator::Erase,        &Mutator::Duplicate,       &Mutator::Splice,
      &Mutator::InsertWord,   &Mutator::OverwriteLength, &Mutator::OverwriteVarint,
      &Mutator::ReplaceNumber};
  // Rarely: it takes the place of most of an input.
  if (Below(128) == 0) return Nest(bytes);
  (this->*kKinds[Below(kKinds.size())])(bytes);
}

void Mutator::FlipBit(std::string* bytes) {
  if (bytes->empty()) return;
  (*bytes)[Below(bytes->size())] ^= static_cast<char>(1 << Below(8));
}

void Mutator::SetByte(std::string* bytes) {
  if (bytes->empty()) return;
  (*bytes)[Below(bytes->size())] = static_cast<char>(Below(256));
}

void Mutator::Truncate(std::string* bytes) { bytes->resize(Below(bytes->size())); }

void Mutator::Erase(std::string* bytes) {
  const size_t at = Below(bytes->size());
  bytes->erase(at, 1 + Below(std::min<size_t>(bytes->size() - at, 64)));
}

void Mutator::Duplicate(std::string* bytes) {
  const size_t at = Below(bytes->size());
  const std::string part = bytes->substr(at, 1 + Below(std::min<size_t>(bytes->size() - at, 256)));
  const size_t times = 1 + Below(8);
  for (size_t i = 0; i < times; ++i) bytes->insert(at, part);
}

void Mutator::Splice(std::string* bytes) {
  const std::string& other = AnySeed();
  bytes->resize(Below(bytes->size() + 1));
  bytes->append(other, Below(other.size() + 1));
}

void Mutator::OverwriteLength(std::string* bytes) {
  const size_t width = size_t{1} << Below(4);
  const uint64_t length = kLengths[Below(kLengths.size())];
  if (bytes->size() < width) return;
  std::memcpy(bytes->data() + Below(bytes->size() - width + 1), &length, width);
}

void Mutator::OverwriteVarint(std::string* bytes) {
  const size_t begin = Below(bytes->size());
  size_t end = begin;
  while (end < bytes->size() && static_cast<uint8_t>((*bytes)[end]) >= 0x80) ++end;
  std::string varint;
  uint64_t length = kLengths[Below(kLengths.size())];
  for (; length >= 0x80; length >>= 7) varint.push_back(static_cast<char>(length | 0x80));
  varint.push_back(static_cast<char>(length));
  bytes->replace(begin, end + 1 - begin, varint);
}

void Mutator::ReplaceNumber(std::string* bytes) {
  const auto is_digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  const auto from = bytes->begin() + static_cast<std::ptrdiff_t>(Below(bytes->size()));
  const auto begin = std::find_if(from, bytes->end(), is_digit);
  const auto end = std::find_if_not(begin, bytes->end(), is_digit);
  bytes->replace(begin, end, kNumbers[Below(kNumbers.size())]);
}

void Mutator::InsertWord(std::string* bytes) {
  bytes->insert(Below(bytes->size() + 1), kWords[Below(kWords.size())]);
}

// Where a value stands, so that what is nested parses.
void Mutator::Nest(std::string* bytes) {
  const size_t colon = bytes->find(':', Below(bytes->size()));
  if (colon == std::string::npos) return;
  const size_t end = std::min(bytes->find_first_of(",}", colon), bytes->size());
  const size_t depth = Below(kDeepest);
  bytes->replace(colon + 1, end - colon - 1, std::string(depth, '[') + std::string(depth, ']'));
}

}  // namespace msa::fuzz

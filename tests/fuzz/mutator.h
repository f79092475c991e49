// Changed copies of seeds: what a disk, a network or a hand may make of an input, and lengths that
// nobody would write.
#ifndef MSA_TESTS_FUZZ_MUTATOR_H_
#define MSA_TESTS_FUZZ_MUTATOR_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace msa::fuzz {

inline constexpr size_t kMaxInputBytes = 1u << 20;

class Mutator {
 public:
  // REQUIRES: there is a seed.
  Mutator(std::vector<std::string> seeds, uint64_t seed) : seeds_(std::move(seeds)), seed_(seed) {}

  // The same for the same seeds, seed and `run`, whatever was made before. At most kMaxInputBytes.
  std::string Make(uint64_t run);

 private:
  size_t Below(size_t end);  // 0 where there is nothing below
  const std::string& AnySeed() { return seeds_[Below(seeds_.size())]; }
  void Change(std::string* bytes);

  void FlipBit(std::string* bytes);
  void SetByte(std::string* bytes);
  void Truncate(std::string* bytes);
  void Erase(std::string* bytes);
  void Duplicate(std::string* bytes);
  void Splice(std::string* bytes);
  void OverwriteLength(std::string* bytes);  // little-endian, of 1, 2, 4 or 8 bytes
  void OverwriteVarint(std::string* bytes);
  void ReplaceNumber(std::string* bytes);  // one written in digits
  void InsertWord(std::string* bytes);     // of JSON
  void Nest(std::string* bytes);           // lists in lists

  const std::vector<std::string> seeds_;
  const uint64_t seed_;
  std::mt19937_64 random_;
};

}  // namespace msa::fuzz

#endif  // MSA_TESTS_FUZZ_MUTATOR_H_

// Added tokens of a tokenizer.json (special ones and others) and where they stand in a text.
#ifndef MSA_COMPUTE_NODE_MODEL_ADDED_TOKENS_H_
#define MSA_COMPUTE_NODE_MODEL_ADDED_TOKENS_H_

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compute_node/model/byte_range.h"
#include "nlohmann/json_fwd.hpp"

namespace msa::compute_node {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool single_word = false;  // counts only where no word character touches it
  bool normalized = false;   // looked for in the normalised text, not in the raw one
};

// The "added_tokens" list. INVALID_ARGUMENT naming the entry that is not as it should be.
absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const nlohmann::json& list);

// Finds the tokens given to Add, leftmost first and the longest at a place. Immutable once filled.
// Cost: a text without the tokens' first bytes is passed over at a table look-up a byte.
class AddedTokenFinder {
 public:
  struct Match {
    ByteRange bytes;  // with the white space it takes
    int32_t id;
  };

  // `content` is what to look for: the token's own, or its normal form.
  void Add(const AddedToken& token, std::string_view content);

  bool empty() const { return tokens_.empty(); }

  // All matches in order. None overlaps a range of `literal` (ascending, disjoint), nor does the
  // white space a match takes; a longer token that would is passed over for a shorter one.
  std::vector<Match> Find(std::string_view text, absl::Span<const ByteRange> literal) const;

 private:
  struct Token {
    int32_t id;
    bool lstrip, rstrip, single_word;
  };
  struct Candidate {
    size_t end = 0;
    int32_t token = -1;  // -1: none
  };

  Candidate Longest(std::string_view text, size_t begin, size_t limit) const;
  // Finds in text[begin, end), a stretch free of literal text; neighbours outside it are only
  // looked at.
  void FindIn(std::string_view text, ByteRange stretch, std::vector<Match>* matches) const;

  std::vector<Token> tokens_;
  // A trie: (node << 8 | byte) → node; node 0 is the root.
  absl::flat_hash_map<uint64_t, uint32_t> children_;
  std::vector<int32_t> token_of_node_ = {-1};
  std::bitset<256> first_bytes_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_ADDED_TOKENS_H_

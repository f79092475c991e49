// The BPE model of a byte-level tokenizer.json: one pre-token's bytes in, token ids out.
#ifndef MSA_COMPUTE_NODE_MODEL_BPE_H_
#define MSA_COMPUTE_NODE_MODEL_BPE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace msa::compute_node {

// Immutable after Create, so any number of threads may use it, each with its own Scratch.
// Cost: O(n log n) in the bytes of a pre-token; a pre-token that is one token costs one look-up.
// Source: Hugging Face tokenizers, models/bpe: merges in order of (rank, position);
// `ignore_merges`, `unk_token`, `fuse_unk` and `byte_fallback` as there.
class BpeModel {
 public:
  // Symbols of one word while they are merged, and at the end its tokens.
  struct Symbol {
    int32_t id;      // -1: merged into the symbol before it
    uint32_t begin;  // bytes of the word it covers
    uint32_t end;
    int32_t previous;
    int32_t next;  // -1: none
  };
  struct Candidate {
    uint32_t rank;
    int32_t position;  // of the left symbol
    int32_t merged_id;
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };
  struct Token {
    int32_t id;
    uint32_t begin;  // bytes of the word
    uint32_t end;
  };

  // `model` is the "model" object of tokenizer.json. INVALID_ARGUMENT naming what is unknown,
  // missing or contradictory: another type, dropout, a merge of absent tokens, an id out of range.
  static absl::StatusOr<BpeModel> Create(const nlohmann::json& model);

  // Appends the tokens of `word`. Bytes that have no token become the unknown token or, where the
  // model has none, vanish, as in Hugging Face. REQUIRES: word shorter than 2 GiB.
  void Tokenize(std::string_view word, Scratch* scratch, std::vector<Token>* tokens) const;

  // Token text (in the byte-level alphabet) → id.
  const absl::flat_hash_map<std::string, int32_t>& vocabulary() const { return vocabulary_; }
  // The same as `vocabulary().find`.
  std::optional<int32_t> TokenId(std::string_view token) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t merged_id;
  };
  // What a single byte becomes before any merge.
  enum class ByteKind { kToken, kFallback, kUnknown };
  struct ByteSymbols {
    ByteKind kind = ByteKind::kUnknown;
    std::vector<int32_t> ids;  // one token, or the byte fallback's; none when unknown
  };

  absl::Status LoadVocabulary(const nlohmann::json& vocab);
  absl::Status LoadMerges(const nlohmann::json& merges);
  absl::Status AddMerge(size_t rank, const std::string& left, const std::string& right);
  absl::Status LoadUnknown(const nlohmann::json& model);
  void LoadByteSymbols(bool byte_fallback);
  void LoadWholeWords(bool ignore_merges);
  void AddSymbols(std::string_view word, std::vector<Symbol>* symbols) const;
  void MergeSymbols(Scratch* scratch) const;
  void Propose(int32_t left, Scratch* scratch) const;
  const Merge* FindMerge(int32_t left_id, int32_t right_id) const;

  absl::flat_hash_map<std::string, int32_t> vocabulary_;
  absl::flat_hash_map<uint64_t, Merge> merges_;  // (left id << 32 | right id)
  std::array<ByteSymbols, 256> byte_symbols_;
  std::optional<int32_t> unk_id_;
  bool fuse_unk_ = false;
  // Words (as bytes) that are known to end as exactly one token: most words of most texts.
  absl::flat_hash_map<std::string, int32_t> whole_words_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_BPE_H_

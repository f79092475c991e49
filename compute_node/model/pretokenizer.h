// The pre_tokenizer of a byte-level tokenizer.json: cuts text into the words that BPE never merges
// across.
#ifndef MSA_COMPUTE_NODE_MODEL_PRETOKENIZER_H_
#define MSA_COMPUTE_NODE_MODEL_PRETOKENIZER_H_

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute_node/model/byte_range.h"
#include "nlohmann/json_fwd.hpp"

namespace msa::compute_node {

// Immutable after Create; any number of threads. Cost: linear in the text for the expressions in
// use. Knows ByteLevel (once, last: after it the text is no longer text), Split, Digits and
// Sequence of them.
class PreTokenizer {
 public:
  struct Word {
    ByteRange bytes;
    bool space_before = false;  // one space, not in the text, precedes it (add_prefix_space)
  };

  // `config` is the "pre_tokenizer" object. INVALID_ARGUMENT naming a type, behaviour or pattern
  // that is not supported, or the lack of ByteLevel.
  static absl::StatusOr<PreTokenizer> Create(const nlohmann::json& config);

  // Replaces `*words` by the words of `text` in order. REQUIRES: valid UTF-8.
  absl::Status Split(std::string_view text, std::vector<Word>* words) const;

  // One stage of the pipeline: cuts each word further.
  class Step {
   public:
    virtual ~Step() = default;
    virtual absl::Status Apply(std::string_view text, const std::vector<Word>& words,
                               std::vector<Word>* out) const = 0;
  };

 private:
  absl::Status Add(const nlohmann::json& config, int depth);
  absl::Status AddByteLevel(const nlohmann::json& config);
  absl::Status AddSplit(const nlohmann::json& config);
  absl::Status AddDigits(const nlohmann::json& config);
  absl::Status AddSequence(const nlohmann::json& config, int depth);

  std::vector<std::unique_ptr<const Step>> steps_;
  bool has_byte_level_ = false;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_PRETOKENIZER_H_

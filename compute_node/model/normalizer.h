// The normalizer of a tokenizer.json: none or NFC, with a map back to the bytes it came from.
#ifndef MSA_COMPUTE_NODE_MODEL_NORMALIZER_H_
#define MSA_COMPUTE_NODE_MODEL_NORMALIZER_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute_node/model/byte_range.h"
#include "nlohmann/json_fwd.hpp"

namespace msa::compute_node {

// Where each stretch of a normalised text lies in its source. Empty = the text is unchanged.
class OffsetMap {
 public:
  struct Stretch {
    ByteRange normalized;
    ByteRange source;
    bool changed;  // then its inside has no finer correspondence
  };

  void Add(Stretch stretch) { stretches_.push_back(stretch); }
  // The smallest source range that `normalized` comes from. Cost: logarithmic in the stretches.
  ByteRange ToSource(ByteRange normalized) const;

 private:
  const Stretch& Find(size_t normalized_byte) const;

  std::vector<Stretch> stretches_;
};

// Immutable after Create; any number of threads.
class Normalizer {
 public:
  // `config` is the "normalizer" object: null, NFC, or a Sequence of these. INVALID_ARGUMENT naming
  // any other type.
  static absl::StatusOr<Normalizer> Create(const nlohmann::json& config);

  // False when Normalize would return `text` as it is. REQUIRES: valid UTF-8.
  bool Changes(std::string_view text) const;

  // Appends the normal form of `text` to `*out` and fills `*map` (offsets from the start of `*out`,
  // which must be empty, and of `text`). INVALID_ARGUMENT for more than kMaxCombiningRun combining
  // marks in a row: putting them in order takes time quadratic in their number.
  absl::Status Normalize(std::string_view text, std::string* out, OffsetMap* map) const;

  static constexpr size_t kMaxCombiningRun = 1024;

 private:
  explicit Normalizer(bool nfc) : nfc_(nfc) {}

  bool nfc_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_NORMALIZER_H_

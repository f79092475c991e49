// Byte-level BPE tokenizers as Hugging Face writes them (tokenizer.json of the Llama 3, Qwen2,
// Qwen3, GPT-2 and SmolLM2 families): text to token ids and back, with the ids of the `tokenizers`
// library.
#ifndef MSA_COMPUTE_NODE_MODEL_TOKENIZER_H_
#define MSA_COMPUTE_NODE_MODEL_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compute_node/model/byte_range.h"

namespace msa::compute_node {

// Immutable after Load; every method may be called by any number of threads.
// The post-processor is never applied: no token is added that the text does not spell.
class Tokenizer {
 public:
  // A text of which some byte ranges are a user's. Inside those no added token is recognised (a
  // match may not overlap one), but the whole is tokenised in one piece: words and merges cross the
  // edges.
  struct Text {
    std::string utf8;
    std::vector<ByteRange> literal;  // ascending, disjoint

    // Text of ours: `frame` may spell special tokens.
    void Append(std::string_view frame);
    // Text of a user.
    void AppendLiteral(std::string_view user_text);
    // Appends another text with its ranges.
    void Append(const Text& other);
  };

  struct Encoding {
    std::vector<int32_t> ids;
    // The bytes of the input that each token comes from, ascending. A character of several tokens
    // counts for each with the bytes it has; where normalisation changed the text, with the whole
    // changed part.
    std::vector<ByteRange> offsets;
  };

  // Reads tokenizer.json and, when they lie beside it, tokenizer_config.json,
  // special_tokens_map.json and chat_template.jinja. NOT_FOUND when there is no such file,
  // INVALID_ARGUMENT naming what is broken or not supported, RESOURCE_EXHAUSTED for files over 256
  // MiB. Cost: a second for 150,000 tokens.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& tokenizer_json_path);
  ~Tokenizer();

  // INVALID_ARGUMENT for broken UTF-8 (names the byte), literal ranges that cut characters, or a
  // text of 1 GiB and more. Cost: linear in the text for text of any kind, O(n log n) for one word
  // of n bytes.
  absl::StatusOr<std::vector<int32_t>> Encode(const Text& text) const;
  // Everything is ours: all added tokens are recognised.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view utf8) const;
  // Everything is a user's: no added token is recognised.
  absl::StatusOr<std::vector<int32_t>> EncodeLiteral(std::string_view utf8) const;
  // The same with the place of each token.
  absl::StatusOr<Encoding> EncodeWithOffsets(const Text& text) const;

  // The text of `ids`: ill-formed UTF-8 becomes U+FFFD; ids that do not exist are left out, and
  // special tokens too when `skip_special`.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const;

  // The bytes of one token, possibly part of a character; empty for an id that does not exist.
  // Lifetime: the tokenizer's.
  std::string_view TokenBytes(int32_t id) const;

  // Decodes token by token: bytes that do not yet make a whole character are held back. The pieces
  // together equal Decode of all ids. One thread; must not outlive the tokenizer.
  class StreamDecoder {
   public:
    StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
        : tokenizer_(&tokenizer), skip_special_(skip_special) {}

    // The text that has become certain with `id`.
    std::string Push(int32_t id);
    // What was held back, as U+FFFD; the decoder is as new afterwards.
    std::string Flush();

   private:
    const Tokenizer* tokenizer_;
    bool skip_special_;
    std::string held_;
  };

  // The id of an added token (as it is spelled) or of a vocabulary entry (in the byte-level
  // alphabet).
  std::optional<int32_t> TokenId(std::string_view token) const;
  // One more than the largest id: the logits a model must have at least.
  int32_t vocab_size() const;
  bool IsSpecial(int32_t id) const;

  // From the files beside tokenizer.json; absent when they do not say.
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;
  // The Jinja source, empty when there is none.
  const std::string& chat_template() const;

 private:
  struct Parts;
  class Encoder;

  explicit Tokenizer(std::unique_ptr<const Parts> parts);

  std::unique_ptr<const Parts> parts_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_TOKENIZER_H_

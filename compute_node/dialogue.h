// What is said to the model and what it answers, as text and token ids: document frames, routing
// prompts of every round, routing masks, the reference numbers a model wrote, the final question.
// Knows nothing of weights or memory. docs/numerics.md "Generation and Memory Interleave" has the
// rules; tests/golden/prompts holds them to the published engine.
#ifndef MSA_COMPUTE_NODE_DIALOGUE_H_
#define MSA_COMPUTE_NODE_DIALOGUE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compute_node/model/config.h"
#include "compute_node/model/tokenizer.h"

namespace msa::compute_node {

inline constexpr std::string_view kObjectRefEnd = "<|object_ref_end|>";
inline constexpr std::string_view kEndOfRetrieve = "<End-of-Retrieve>";
inline constexpr std::string_view kMessageEnd = "<|im_end|>";

// A document's text under its reference number.
struct ReferencedText {
  int64_t reference = 0;
  std::string text;
};

struct RoutingPrompt {
  std::vector<int32_t> ids;
  std::vector<int32_t>
      routing_rows;  // indices into ids of the tokens that route, ascending, not empty
};

// `parse_special_tokens`: special-token text inside documents and questions is parsed as such, as
// the published engine does.
class Frames {
 public:
  Frames(const Tokenizer& tokenizer, bool parse_special_tokens)
      : tokenizer_(tokenizer), parse_special_tokens_(parse_special_tokens) {}

  // `<|im_start|>[i]. {text}[i]<|im_end|>`; positions from 0.
  absl::StatusOr<std::vector<int32_t>> Document(const ReferencedText& document) const;
  // `<|im_start|>user\n`: encoded once, alone; every query attends to it.
  absl::StatusOr<std::vector<int32_t>> TemplateHead() const;
  // The reader prompt of router mode, documents in the order given, which the caller makes
  // ascending; `place` is the checkpoint's.
  absl::StatusOr<std::vector<int32_t>> Reader(absl::Span<const ReferencedText> documents,
                                              std::string_view question,
                                              ReaderQuestion place) const;

  // Adds what a user wrote.
  void AppendUser(std::string_view text, Tokenizer::Text& to) const;
  const Tokenizer& tokenizer() const { return tokenizer_; }
  bool parse_special_tokens() const { return parse_special_tokens_; }

 private:
  const Tokenizer& tokenizer_;
  bool parse_special_tokens_;
};

// How the model ended a retrieval round.
enum class RoundEnd {
  kContinue,       // nothing decides yet: go on decoding
  kReferences,     // closed by <|object_ref_end|>: load the documents, next round
  kFinalQuestion,  // wrote <End-of-Retrieve>
  kReply,          // ended the message: no answer will come
};

// The conversation of one question over all its rounds. Not thread-safe.
class Dialogue {
 public:
  Dialogue(const Frames& frames, std::string_view question);

  // This round's query: everything so far, tokenised afresh. INVALID_ARGUMENT for broken UTF-8.
  absl::StatusOr<RoutingPrompt> Prompt() const;

  // What the round's text so far decides; `ended` when the last token ended the message.
  static RoundEnd Judge(std::string_view written, bool ended);
  // Reference numbers in `[4][17]` form, as written, repeats kept; numbers of more than 18 digits
  // are nobody's.
  static std::vector<int64_t> References(std::string_view written);
  // The order in which texts are appended: ascending, each once.
  static std::vector<int64_t> InReadingOrder(std::vector<int64_t> references);

  // The tokens the model wrote in this round, without the one that ended it where that is dropped.
  void AppendWritten(absl::Span<const int32_t> ids);
  // Router mode: writes the references as a model would have.
  void AppendReferences(absl::Span<const int64_t> references);
  // Texts loaded after the round, ascending by reference; starts the next round.
  void AppendDocuments(absl::Span<const ReferencedText> documents);

  // `<|im_start|>The user's question is: {question}\n<|object_ref_end|>`, fed in one step.
  absl::StatusOr<std::vector<int32_t>> FinalQuestion() const;
  // The answer in what the model wrote after the final question.
  static std::string Answer(std::string_view written);
  // Whether an answer is what the checkpoint says where the texts hold none, in what Answer makes
  // of that: a model may be made to begin it with a space. Never, where it says nothing.
  static bool IsRefusal(std::string_view answer, std::string_view refusal);

  // Everything so far as text.
  const std::string& text() const { return text_.utf8; }

 private:
  // Byte spans of text_ whose tokens route.
  std::vector<ByteRange> RoutingSpans() const;
  size_t FindFrame(std::string_view needle, size_t from, bool last) const;
  void AppendUser(std::string_view text);

  Frames frames_;
  std::string question_;
  Tokenizer::Text text_;
  std::vector<ByteRange> users_;  // of text_: what a user wrote, unless it is parsed like ours
  size_t question_end_ = 0;       // after "…related to the question", before its newline
  int round_ = 1;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_DIALOGUE_H_

// Chat prompts: a list of messages to the text that an instruction-tuned model was trained on.
#ifndef MSA_COMPUTE_NODE_MODEL_CHAT_TEMPLATE_H_
#define MSA_COMPUTE_NODE_MODEL_CHAT_TEMPLATE_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compute_node/model/tokenizer.h"

namespace msa::compute_node {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// Which family's rules a model's Jinja template states. The template is recognised, not run: a
// template is a program, and the few in use say one of four things. Immutable, any number of
// threads.
class ChatTemplate {
 public:
  struct Options {
    bool add_generation_prompt = true;  // end with the opening of the assistant's turn
    bool enable_thinking = true;        // Qwen3: false closes the thinking block at once
    std::string date = "26 Jul 2024";   // Llama 3.1 states one; this is its own default
  };

  // ChatML with or without a default system message (SmolLM2, Qwen1.5, Qwen2, Qwen2.5), Qwen3,
  // Llama 3, Llama 3.1. FAILED_PRECONDITION for an empty or any other template.
  static absl::StatusOr<ChatTemplate> Recognise(std::string_view jinja);

  // The prompt, contents being a user's text (`Text::literal`), frames ours. INVALID_ARGUMENT for
  // an empty list and for other roles. Llama trims contents and Qwen3 drops past thinking, as their
  // templates do.
  absl::StatusOr<Tokenizer::Text> Format(absl::Span<const ChatMessage> messages,
                                         const Options& options) const;

  enum class Family { kChatMl, kQwen3, kLlama3, kLlama31 };
  Family family() const { return family_; }
  // What ChatML says for a system when the messages do not.
  const std::optional<std::string>& default_system() const { return default_system_; }

 private:
  explicit ChatTemplate(Family family, std::optional<std::string> default_system = std::nullopt)
      : family_(family), default_system_(std::move(default_system)) {}

  Tokenizer::Text FormatChatMl(absl::Span<const ChatMessage> messages,
                               const Options& options) const;
  Tokenizer::Text FormatQwen3(absl::Span<const ChatMessage> messages, const Options& options) const;
  Tokenizer::Text FormatLlama(absl::Span<const ChatMessage> messages, const Options& options) const;

  Family family_;
  std::optional<std::string> default_system_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_CHAT_TEMPLATE_H_

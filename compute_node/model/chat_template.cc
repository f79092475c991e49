#include "compute_node/model/chat_template.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_replace.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"

namespace msa::compute_node {
namespace {

using Text = Tokenizer::Text;

constexpr std::string_view kThinkEnd = "</think>";

bool ContainsAll(std::string_view text, std::initializer_list<std::string_view> parts) {
  return std::all_of(parts.begin(), parts.end(), [text](std::string_view part) {
    return text.find(part) != std::string_view::npos;
  });
}

// The template with "\n" escapes as line ends (files have both) and no space between its blocks.
std::string Canonical(std::string_view jinja) {
  return absl::StrReplaceAll(ToAbsl(jinja), {{"\\n", "\n"}, {"{%- ", "{% "}, {"{{- ", "{{ "}});
}

// Takes `prefix` off the front of `*text`, with white space before it; false when it is not there.
bool Consume(std::string_view prefix, std::string_view* text) {
  const size_t start = text->find_first_not_of(" \n");
  if (start == std::string_view::npos || !text->substr(start).starts_with(prefix)) return false;
  text->remove_prefix(start + prefix.size());
  return true;
}

// The plain ChatML template, from its first to its last character; what it says for a system by
// default, empty when nothing.
std::optional<std::string> MatchPlainChatMl(std::string_view jinja) {
  std::string system;
  if (!Consume("{% for message in messages %}", &jinja)) return std::nullopt;
  if (Consume("{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n",
              &jinja)) {
    const size_t end = jinja.find("<|im_end|>\n' }}{% endif %}");
    if (end == std::string_view::npos) return std::nullopt;
    system = jinja.substr(0, end);
    jinja.remove_prefix(jinja.find("{% endif %}", end) + 11);
  }
  const bool matches =
      Consume(
          "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
          &jinja) &&
      Consume("{% endfor %}", &jinja) && Consume("{% if add_generation_prompt %}", &jinja) &&
      Consume("{{ '<|im_start|>assistant\n' }}", &jinja) && Consume("{% endif %}", &jinja) &&
      jinja.find_first_not_of(" \n") == std::string_view::npos;
  if (!matches) return std::nullopt;
  return system;
}

// Qwen2.5's template, whose tool part is of no concern here: a default system message is stated in
// it.
std::optional<std::string> MatchQwen25(std::string_view jinja) {
  constexpr std::string_view kDefault = "{% else %}\n        {{ '<|im_start|>system\n";
  const size_t begin = jinja.find(kDefault);
  const bool matches =
      begin != std::string_view::npos &&
      ContainsAll(jinja,
                  {"{% if messages[0]['role'] == 'system' %}\n        {{ '<|im_start|>system\n' "
                   "+ messages[0]['content'] + '<|im_end|>\n' }}",
                   "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' "
                   "+ '\n' }}",
                   "{{ '<|im_start|>assistant\n' }}"}) &&
      jinja.find("think") == std::string_view::npos;
  if (!matches) return std::nullopt;
  jinja.remove_prefix(begin + kDefault.size());
  const size_t end = jinja.find("<|im_end|>\n' }}");
  if (end == std::string_view::npos) return std::nullopt;
  return std::string(jinja.substr(0, end));
}

bool IsQwen3(std::string_view jinja) {
  return ContainsAll(jinja, {"ns.last_query_index", "reasoning_content", "<|im_start|>assistant\n",
                             "enable_thinking is false", "'<think>\n\n</think>\n\n'"});
}

bool IsLlama3(std::string_view jinja) {
  return ContainsAll(jinja, {"'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'",
                             "message['content'] | trim + '<|eot_id|>'",
                             "'<|start_header_id|>assistant<|end_header_id|>\n\n'"});
}

// Python's str.strip(): the White_Space property and the four separators of ASCII.
bool IsPythonSpace(char32_t c) {
  return (c >= 0x1C && c <= 0x1F) || u_isUWhiteSpace(static_cast<UChar32>(c));
}

// REQUIRES: valid UTF-8; broken text is left as it is and refused by the tokenizer.
std::string_view Trim(std::string_view text) {
  while (!text.empty() && IsPythonSpace(NextUtf8(text).code_point)) {
    text.remove_prefix(NextUtf8(text).size);
  }
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && !IsUtf8CharStart(text[last])) --last;
    if (!IsPythonSpace(NextUtf8(text.substr(last)).code_point)) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

std::string_view TrimNewlines(std::string_view text) {
  const size_t begin = text.find_first_not_of('\n');
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of('\n') + 1 - begin);
}

std::string_view TrimLeadingNewlines(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}

// What an assistant's message says aloud, and its thinking before that.
struct Thought {
  std::string_view thinking;
  std::string_view answer;
};

Thought SplitThinking(std::string_view content) {
  const size_t first_end = content.find(kThinkEnd);
  if (first_end == std::string_view::npos) return {"", content};
  std::string_view thinking = content.substr(0, first_end);
  constexpr std::string_view kThinkBegin = "<think>";
  const size_t begin = thinking.rfind(kThinkBegin);
  if (begin != std::string_view::npos) thinking.remove_prefix(begin + kThinkBegin.size());
  const size_t last_end = content.rfind(kThinkEnd);
  return {TrimNewlines(thinking), TrimLeadingNewlines(content.substr(last_end + kThinkEnd.size()))};
}

// The index of the last message that a person wrote; past the end when there is none.
size_t LastQuery(absl::Span<const ChatMessage> messages) {
  for (size_t i = messages.size(); i-- > 0;) {
    const std::string_view content = messages[i].content;
    const bool is_tool =
        content.starts_with("<tool_response>") && content.ends_with("</tool_response>");
    if (messages[i].role == "user" && !is_tool) return i;
  }
  return messages.size();
}

void AppendChatMlTurn(std::string_view role, std::string_view content, Text* text) {
  text->Append(StrCat("<|im_start|>", role, "\n"));
  text->AppendLiteral(content);
  text->Append("<|im_end|>\n");
}

absl::Status CheckMessages(absl::Span<const ChatMessage> messages) {
  if (messages.empty()) return absl::InvalidArgumentError("a chat needs at least one message");
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role == "system" || role == "user" || role == "assistant") continue;
    return absl::InvalidArgumentError(
        StrCat("message ", i, " has an unknown role; roles are system, user and assistant"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Recognise(std::string_view jinja) {
  const std::string canonical = Canonical(jinja);
  if (std::optional<std::string> system = MatchPlainChatMl(canonical); system.has_value()) {
    if (system->empty()) system.reset();
    return ChatTemplate(Family::kChatMl, std::move(system));
  }
  if (IsQwen3(canonical)) return ChatTemplate(Family::kQwen3);
  if (std::optional<std::string> system = MatchQwen25(canonical); system.has_value()) {
    return ChatTemplate(Family::kChatMl, std::move(system));
  }
  if (IsLlama3(canonical)) {
    const bool states_dates =
        ContainsAll(canonical, {"Cutting Knowledge Date: December 2023\n", "Today Date: "});
    if (states_dates) return ChatTemplate(Family::kLlama31);
    if (!ContainsAll(canonical, {"Date"})) return ChatTemplate(Family::kLlama3);
  }
  return absl::FailedPreconditionError(
      jinja.empty()
          ? "the model has no chat template (tokenizer_config.json): give the prompt as text"
          : "the model's chat template is not one of ChatML, Qwen2.5, Qwen3, Llama 3 and 3.1: "
            "give the prompt as text");
}

absl::StatusOr<Tokenizer::Text> ChatTemplate::Format(absl::Span<const ChatMessage> messages,
                                                     const Options& options) const {
  MSA_RETURN_IF_ERROR(CheckMessages(messages));
  switch (family_) {
    case Family::kChatMl:
      return FormatChatMl(messages, options);
    case Family::kQwen3:
      return FormatQwen3(messages, options);
    case Family::kLlama3:
    case Family::kLlama31:
      return FormatLlama(messages, options);
  }
  return absl::InternalError("a family without a format");
}

Tokenizer::Text ChatTemplate::FormatChatMl(absl::Span<const ChatMessage> messages,
                                           const Options& options) const {
  Text text;
  if (default_system_.has_value() && messages[0].role != "system") {
    text.Append(StrCat("<|im_start|>system\n", *default_system_, "<|im_end|>\n"));
  }
  for (const ChatMessage& message : messages) {
    AppendChatMlTurn(message.role, message.content, &text);
  }
  if (options.add_generation_prompt) text.Append("<|im_start|>assistant\n");
  return text;
}

Tokenizer::Text ChatTemplate::FormatQwen3(absl::Span<const ChatMessage> messages,
                                          const Options& options) const {
  Text text;
  const size_t last_query = LastQuery(messages);
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role != "assistant") {
      AppendChatMlTurn(messages[i].role, messages[i].content, &text);
      continue;
    }
    const Thought thought = SplitThinking(messages[i].content);
    const bool is_last = i + 1 == messages.size();
    if (i <= last_query || (!is_last && thought.thinking.empty())) {
      AppendChatMlTurn("assistant", thought.answer, &text);
      continue;
    }
    text.Append("<|im_start|>assistant\n<think>\n");
    text.AppendLiteral(thought.thinking);
    text.Append("\n</think>\n\n");
    text.AppendLiteral(TrimLeadingNewlines(thought.answer));
    text.Append("<|im_end|>\n");
  }
  if (options.add_generation_prompt) {
    text.Append("<|im_start|>assistant\n");
    if (!options.enable_thinking) text.Append("<think>\n\n</think>\n\n");
  }
  return text;
}

Tokenizer::Text ChatTemplate::FormatLlama(absl::Span<const ChatMessage> messages,
                                          const Options& options) const {
  Text text;
  const auto append_turn = [&text](std::string_view role, std::string_view frame,
                                   std::string_view content) {
    text.Append(StrCat("<|start_header_id|>", role, "<|end_header_id|>\n\n", frame));
    text.AppendLiteral(Trim(content));
    text.Append("<|eot_id|>");
  };
  text.Append("<|begin_of_text|>");
  if (family_ == Family::kLlama31) {
    const bool has_system = messages[0].role == "system";
    append_turn("system",
                StrCat("Cutting Knowledge Date: December 2023\nToday Date: ", options.date, "\n\n"),
                has_system ? messages[0].content : "");
    if (has_system) messages.remove_prefix(1);
  }
  for (const ChatMessage& message : messages) append_turn(message.role, "", message.content);
  if (options.add_generation_prompt) {
    text.Append("<|start_header_id|>assistant<|end_header_id|>\n\n");
  }
  return text;
}

}  // namespace msa::compute_node

#include "compute_node/model/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/compute_node/model/tokenizer_test_util.h"

namespace msa::compute_node {
namespace {

using nlohmann::json;

// Each family's template without its tool part, and what Jinja makes of it.
json Cases() {
  return testing::ReadJson(
      testing::SourcePath("tests/compute_node/model/chat_template_cases.json"));
}

const char kSmolLm2[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

TEST(ChatTemplateTest, FormatsAsJinjaDoes) {
  const json cases = Cases();
  int checked = 0;
  for (const json& chat : cases["chats"]) {
    const std::string family = chat["family"];
    const auto recognised = ChatTemplate::Recognise(cases["templates"][family].get<std::string>());
    ASSERT_TRUE(recognised.ok()) << recognised.status();
    std::vector<ChatMessage> messages;
    for (const json& message : chat["messages"]) {
      messages.push_back({message["role"], message["content"]});
    }
    ChatTemplate::Options options;
    options.add_generation_prompt = chat["add_generation_prompt"];
    options.enable_thinking = chat["enable_thinking"];
    const auto text = recognised->Format(messages, options);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(text->utf8, chat["prompt"].get<std::string>()) << family;
    ++checked;
  }
  EXPECT_EQ(checked, 90);
}

TEST(ChatTemplateTest, SmolLm2) {
  const auto chat = ChatTemplate::Recognise(kSmolLm2);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->family(), ChatTemplate::Family::kChatMl);
  EXPECT_EQ(chat->default_system(),
            "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
  EXPECT_EQ(chat->Format({{"system", "S"}, {"user", "U"}}, {})->utf8,
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, PlainChatMlHasNoSystem) {
  const auto chat = ChatTemplate::Recognise(
      "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
      "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
      "'<|im_start|>assistant\\n' }}{% endif %}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->default_system(), std::nullopt);
  EXPECT_EQ(chat->Format({{"user", "U"}}, {})->utf8,
            "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, ContentsAreLiteral) {
  const auto chat = ChatTemplate::Recognise(kSmolLm2);
  const auto text = chat->Format({{"user", "a<|im_end|>b"}, {"assistant", "c"}}, {});
  ASSERT_TRUE(text.ok());
  std::string literal;
  for (const ByteRange& range : text->literal) {
    literal += text->utf8.substr(range.begin, range.size()) + ";";
  }
  EXPECT_EQ(literal, "a<|im_end|>b;c;");
}

TEST(ChatTemplateTest, OtherTemplatesAreRefused) {
  const std::string smollm2 = kSmolLm2;
  const std::string other[] = {"",
                               "{{ messages }}",
                               "<|im_start|>",
                               smollm2 + "x",
                               smollm2.substr(0, smollm2.size() - 4),
                               smollm2.substr(5)};
  for (const std::string& jinja : other) {
    EXPECT_EQ(ChatTemplate::Recognise(jinja).status().code(), absl::StatusCode::kFailedPrecondition)
        << jinja;
  }
}

TEST(ChatTemplateTest, BrokenMessagesAreRefused) {
  const auto chat = ChatTemplate::Recognise(kSmolLm2);
  EXPECT_EQ(chat->Format({}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(chat->Format({{"tool", "x"}}, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace msa::compute_node

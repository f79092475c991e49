// Token ids and routing masks of the published engine's golden cases.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "compute_node/model/chat_template.h"
#include "tests/compute_node/model/tokenizer_test_util.h"

namespace msa::compute_node {
namespace {

using nlohmann::json;
using testing::ReadJson;
using testing::SourcePath;

// Field of a text, field of its ids.
constexpr std::pair<const char*, const char*> kPairs[] = {
    {"wrapped", "token_ids"},      {"prompt_text", "prompt_ids"},          {"prompt", "prompt_ids"},
    {"script_text", "script_ids"}, {"answer_script", "answer_script_ids"},
};

// Compares every text of a file with the ids beside it; counts them.
int CheckTexts(const Tokenizer& tokenizer, const json& value) {
  int checked = 0;
  if (value.is_object()) {
    for (const auto& [text, ids] : kPairs) {
      if (!value.contains(text) || !value.contains(ids)) continue;
      const auto encoded = tokenizer.Encode(value[text].get<std::string>());
      EXPECT_TRUE(encoded.ok()) << encoded.status();
      EXPECT_EQ(*encoded, value[ids].get<std::vector<int32_t>>()) << value[text];
      ++checked;
    }
  }
  if (value.is_structured()) {
    for (const json& part : value) checked += CheckTexts(tokenizer, part);
  }
  return checked;
}

int CheckCase(const Tokenizer& tokenizer, const std::string& folder) {
  int checked = 0;
  for (const char* file : {"/input.json", "/expected.json"}) {
    checked += CheckTexts(tokenizer, ReadJson(SourcePath("tests/golden/" + folder + file)));
  }
  return checked;
}

TEST(TokenizerGoldenTest, QwenSmall) {
  const auto tokenizer = testing::MustLoad(SourcePath("tests/golden/tokenizers/qwen_small.json"));
  EXPECT_EQ(CheckCase(*tokenizer, "qwen3_small"), 12);
  EXPECT_EQ(CheckCase(*tokenizer, "gqa_p64"), 20);
  EXPECT_EQ(CheckCase(*tokenizer, "interleave_scripted"), 12 + 2 * 5);
  EXPECT_GT(CheckCase(*tokenizer, "prompts/qwen_small"), 60);
}

TEST(TokenizerGoldenTest, SmolLm2WithAddedTokens) {
  const auto tokenizer = testing::MustLoad(SourcePath("tests/golden/tokenizers/smollm2_msa.json"));
  EXPECT_GT(CheckCase(*tokenizer, "prompts/smollm2_msa"), 60);
  EXPECT_EQ(CheckCase(*tokenizer, "smollm2_adapter"), 40 + 3 + 6);
}

// The question's span of a first round, by the offsets of its tokens.
TEST(TokenizerGoldenTest, RoutingMaskByOffsets) {
  const auto tokenizer = testing::MustLoad(SourcePath("tests/golden/tokenizers/qwen_small.json"));
  const json expected = ReadJson(SourcePath("tests/golden/prompts/qwen_small/expected.json"));
  int checked = 0;
  for (const json& scenario : expected["scenarios"]) {
    const json& round = scenario["rounds"][0];
    if (!round.contains("prompt_text")) continue;  // the engine itself fails there
    const std::string prompt = round["prompt_text"];
    const std::string tail = "documents related to the question\n";
    const size_t span_end = prompt.rfind(tail) + tail.size();
    Tokenizer::Text text;
    text.Append(prompt);
    const auto encoding = tokenizer->EncodeWithOffsets(text);
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    std::vector<int> mask;
    for (const ByteRange& token : encoding->offsets) mask.push_back(token.begin < span_end);
    EXPECT_EQ(mask, round["routing_mask"].get<std::vector<int>>()) << scenario["name"];
    ++checked;
  }
  EXPECT_EQ(checked, 13);
}

// The files that scripts/make_model.sh writes.
class SmolLm2ModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = SourcePath("models/smollm2-135m-instruct/tokenizer.json");
    if (!std::filesystem::exists(path)) GTEST_SKIP() << "run make model first: " << path;
    tokenizer_ = testing::MustLoad(path);
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(SmolLm2ModelTest, AdapterCase) {
  EXPECT_EQ(CheckCase(*tokenizer_, "smollm2_adapter"), 40 + 3 + 6);
}

TEST_F(SmolLm2ModelTest, SpecialTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_EQ(tokenizer_->bos_id(), 1);
  EXPECT_EQ(tokenizer_->eos_id(), 2);
  EXPECT_EQ(tokenizer_->pad_id(), 2);
  EXPECT_EQ(tokenizer_->TokenId("<|im_end|>"), 2);
  EXPECT_EQ(tokenizer_->Encode("12").value().size(), 2u);
}

TEST_F(SmolLm2ModelTest, ChatPrompts) {
  const auto chat = ChatTemplate::Recognise(tokenizer_->chat_template());
  ASSERT_TRUE(chat.ok()) << chat.status();
  const json input = ReadJson(SourcePath("tests/golden/smollm2_adapter/input.json"));
  for (const json& base_chat : input["base_chats"]) {
    std::vector<ChatMessage> messages;
    for (const json& message : base_chat["messages"]) {
      messages.push_back({message["role"], message["content"]});
    }
    const auto text = chat->Format(messages, {});
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(text->utf8, base_chat["prompt"]);
    EXPECT_EQ(tokenizer_->Encode(*text).value(),
              base_chat["prompt_ids"].get<std::vector<int32_t>>());
  }
  EXPECT_EQ(input["base_chats"].size(), 3u);
}

}  // namespace
}  // namespace msa::compute_node

#include "compute_node/model/text_splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/utf8.h"
#include "tests/compute_node/model/tokenizer_test_util.h"

namespace msa::compute_node {
namespace {

using ::testing::ElementsAre;

const Tokenizer& SmolLm2() {
  static const Tokenizer* const kTokenizer = testing::LoadVariant("smollm2").release();
  return *kTokenizer;
}

size_t CountTokens(std::string_view text) { return SmolLm2().EncodeLiteral(text)->size(); }

// The parts as text, after a check of what holds for every split.
std::vector<std::string> Split(const std::string& text, int max_tokens) {
  const auto parts = SplitText(SmolLm2(), text, max_tokens);
  EXPECT_TRUE(parts.ok()) << parts.status();
  std::vector<std::string> texts;
  size_t begin = 0;
  for (const ByteRange& part : parts.value_or(std::vector<ByteRange>())) {
    EXPECT_EQ(part.begin, begin);
    EXPECT_TRUE(part.end == text.size() || IsUtf8CharStart(text[part.end]));
    begin = part.end;
    texts.push_back(text.substr(part.begin, part.size()));
    EXPECT_LE(CountTokens(texts.back()), static_cast<size_t>(max_tokens));
  }
  EXPECT_EQ(begin, text.size());
  return texts;
}

TEST(TextSplitterTest, WhatFitsIsOnePart) {
  EXPECT_THAT(Split("", 1), ElementsAre(""));
  EXPECT_THAT(Split("One. Two.\n\nThree.", 100), ElementsAre("One. Two.\n\nThree."));
  const std::string text = "A text of exactly so many tokens.\n\nAnd no more.";
  EXPECT_EQ(Split(text, static_cast<int>(CountTokens(text))).size(), 1u);
  EXPECT_EQ(Split(text, static_cast<int>(CountTokens(text)) - 1).size(), 2u);
}

TEST(TextSplitterTest, ParagraphsFirst) {
  const std::string a = "First here. It has two sentences.\n\n";
  const std::string b = "The second one.\n \n  ";
  const std::string c = "Third one. It is long enough to be apart, we think, from the others here.";
  EXPECT_THAT(Split(a + b + c, static_cast<int>(CountTokens(a + b + "Third one."))),
              ElementsAre(a + "The second one.\n \n", "  " + c));
}

TEST(TextSplitterTest, LineEndAfterAFullStopIsAParagraphEnd) {
  const std::string a =
      "It was late, and it rained. The inn was shut. \"Go home,\" he said. \"Now.\"\n";
  const std::string b = "He went. And he was not seen again.";
  EXPECT_THAT(Split(a + b, static_cast<int>(CountTokens(a + "He went. And"))), ElementsAre(a, b));
}

TEST(TextSplitterTest, ThenSentences) {
  const std::string a = "One sentence is here. ";
  const std::string b = "Another one is here? ";
  const std::string c = "The last\nof them is wrapped and then ends.";
  EXPECT_THAT(Split(a + b + c, static_cast<int>(CountTokens(a + b + "The last\nof them"))),
              ElementsAre(a + b, c));
}

TEST(TextSplitterTest, ThenLinesThenWords) {
  const std::string list = "apples and pears\noranges\nlemons from Sicily";
  EXPECT_EQ(Split(list, static_cast<int>(CountTokens("apples and pears\noranges\nlemons"))),
            std::vector<std::string>({"apples and pears\noranges\n", "lemons from Sicily"}));
  const std::string words = "alpha beta gamma delta";
  const auto parts = Split(words, static_cast<int>(CountTokens("alpha beta gamma")));
  EXPECT_EQ(parts[0].back(), ' ');
}

TEST(TextSplitterTest, ThenCharacters) {
  std::string han;
  for (int i = 0; i < 500; ++i) han += "𓀀";  // four tokens each, and no place between words
  const auto parts = Split(han, 9);
  EXPECT_EQ(parts[0], "𓀀𓀀");
  EXPECT_EQ(parts.size(), 250u);
}

TEST(TextSplitterTest, ManySizesOfRealText) {
  const std::string text =
      testing::ReadFile(testing::SourcePath("tests/compute_node/model/tokenizer_seed.txt"))
          .substr(0, 20'000);
  for (const int max_tokens : {1, 2, 3, 7, 16, 50, 129, 512, 4000}) {
    const auto parts = Split(text, max_tokens);
    EXPECT_GE(parts.size(), CountTokens(text) / max_tokens);
  }
}

TEST(TextSplitterTest, HostileTexts) {
  for (const char* unit :
       {" ", "\n", "a", "\n ", ". ", "<|im_end|>", "e\u0301", "\u2028", "ab\n"}) {
    std::string text;
    while (text.size() < 30'000) text += unit;
    Split(text, 13);
    Split(text, 1000);
  }
  Split(std::string(5000, '\0'), 100);
}

TEST(TextSplitterTest, SpecialTokensCountAsTheBankReadsThem) {
  std::string text;
  for (int i = 0; i < 10; ++i) text += "<|im_end|>";
  EXPECT_EQ(SplitText(SmolLm2(), text, 10, /*parse_special_tokens=*/true)->size(), 1u);
  EXPECT_GT(SplitText(SmolLm2(), text, 10)->size(), 1u);
}

TEST(TextSplitterTest, Refusals) {
  const auto code = [](const std::string& text, int max_tokens) {
    return SplitText(SmolLm2(), text, max_tokens).status().code();
  };
  EXPECT_EQ(code("a", 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("a", -1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("a\xFF", 5), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("a 𓀀 b", 2), absl::StatusCode::kInvalidArgument);
}

// A book: quadratic work would exceed the test's time limit many times over.
TEST(TextSplitterTest, TenMegabytes) {
  const std::string seed =
      testing::ReadFile(testing::SourcePath("tests/compute_node/model/tokenizer_seed.txt"));
  std::string book, no_lines;
  while (book.size() < 10'000'000) book += seed;
  no_lines = book;
  std::replace(no_lines.begin(), no_lines.end(), '\n', ' ');
  std::replace(no_lines.begin(), no_lines.end(), '.', ' ');
  for (const std::string& text : {book, no_lines}) {
    const auto parts = SplitText(SmolLm2(), text, 512);
    ASSERT_TRUE(parts.ok()) << parts.status();
    EXPECT_EQ(parts->back().end, text.size());
  }
}

}  // namespace
}  // namespace msa::compute_node

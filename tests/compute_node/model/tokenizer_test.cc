// Behaviour that no reference vector states: users' text, broken input, limits, streaming.
#include "compute_node/model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "compute_node/model/normalizer.h"
#include "tests/compute_node/model/tokenizer_test_util.h"

namespace msa::compute_node {
namespace {

using nlohmann::json;
using ::testing::Contains;
using ::testing::HasSubstr;
using testing::LoadJson;
using testing::LoadVariant;
using ::testing::Not;
using testing::SourcePath;
using testing::TempFolder;

// A tokenizer over ab… with a few merges, small enough to know its ids by heart.
json TinyTokenizer() {
  json vocab;
  int id = 0;
  for (const char* token : {"a", "b", "c", "Ġ", "ab", "abc", "Ġa", "Ã", "©"}) vocab[token] = id++;
  return {
      {"version", "1.0"},
      {"added_tokens", {{{"id", 20}, {"content", "<s>"}, {"special", true}}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"model",
       {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b", "ab c", json::array({"Ġ", "a"})}}}}};
}

std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.Encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<int32_t>();
}

TEST(TokenizerTest, MergesByRank) {
  const auto tokenizer = LoadJson(TinyTokenizer());
  EXPECT_EQ(Ids(*tokenizer, "abc"), std::vector<int32_t>({5}));
  EXPECT_EQ(Ids(*tokenizer, "abab a ab"), std::vector<int32_t>({4, 4, 6, 3, 4}));
  EXPECT_EQ(Ids(*tokenizer, ""), std::vector<int32_t>());
  EXPECT_EQ(Ids(*tokenizer, "a<s>b"), std::vector<int32_t>({0, 20, 1}));
}

TEST(TokenizerTest, IdsAndBytes) {
  const auto tokenizer = LoadJson(TinyTokenizer());
  EXPECT_EQ(tokenizer->vocab_size(), 21);
  EXPECT_EQ(tokenizer->TokenId("<s>"), 20);
  EXPECT_EQ(tokenizer->TokenId("Ġa"), 6);
  EXPECT_EQ(tokenizer->TokenId("nothing"), std::nullopt);
  EXPECT_TRUE(tokenizer->IsSpecial(20));
  EXPECT_FALSE(tokenizer->IsSpecial(0));
  EXPECT_EQ(tokenizer->TokenBytes(6), " a");
  EXPECT_EQ(tokenizer->TokenBytes(7), "\xC3");
  EXPECT_EQ(tokenizer->TokenBytes(15), "");
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);
}

TEST(TokenizerTest, DecodeReplacesBrokenCharacters) {
  const auto tokenizer = LoadJson(TinyTokenizer());
  EXPECT_EQ(tokenizer->Decode({7, 8}, false), "é");
  EXPECT_EQ(tokenizer->Decode({7, 0}, false), "\uFFFDa");
  EXPECT_EQ(tokenizer->Decode({0, 7}, false), "a\uFFFD");
  EXPECT_EQ(tokenizer->Decode({20, 0, 99, -5}, false), "<s>a");
  EXPECT_EQ(tokenizer->Decode({20, 0}, true), "a");
}

TEST(TokenizerTest, StreamHoldsBackHalfCharacters) {
  const auto tokenizer = LoadJson(TinyTokenizer());
  Tokenizer::StreamDecoder stream(*tokenizer, /*skip_special=*/true);
  EXPECT_EQ(stream.Push(0), "a");
  EXPECT_EQ(stream.Push(7), "");
  EXPECT_EQ(stream.Push(20), "");
  EXPECT_EQ(stream.Push(8), "é");
  EXPECT_EQ(stream.Push(8), "\uFFFD");  // no character begins with it
  EXPECT_EQ(stream.Push(7), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Flush(), "");
}

// A user's text cannot forge structure, and still merges with the frame around it.
TEST(TokenizerTest, LiteralTextHasNoAddedTokens) {
  const auto tokenizer = LoadVariant("smollm2_msa");
  const int32_t im_end = *tokenizer->TokenId("<|im_end|>");
  Tokenizer::Text text;
  text.Append("<|im_start|>[0]. ");
  text.AppendLiteral("ends <|im_end|> here.");
  text.Append("[0]<|im_end|>");
  const std::vector<int32_t> ids = tokenizer->Encode(text).value();
  EXPECT_EQ(std::count(ids.begin(), ids.end(), im_end), 1);
  EXPECT_EQ(ids.back(), im_end);
  EXPECT_EQ(tokenizer->Decode(ids, false), text.utf8);
  // ".[" is one token although the full stop is the user's and the bracket ours.
  EXPECT_THAT(ids, Contains(*tokenizer->TokenId(".[")));
  EXPECT_THAT(tokenizer->EncodeLiteral(text.utf8).value(), Not(Contains(im_end)));
}

// A token whose text is half the user's is none; a shorter one before the edge is.
TEST(TokenizerTest, MatchesDoNotOverlapLiteralText) {
  const auto tokenizer = LoadVariant("added");
  Tokenizer::Text text;
  text.Append("<|im_end|>");
  text.AppendLiteral("x");
  // The longer "<|im_end|>x" is 503; 502 is the shorter.
  EXPECT_EQ(tokenizer->Encode(text).value().front(), 502);
  EXPECT_EQ(Ids(*tokenizer, text.utf8).front(), 503);
  Tokenizer::Text split;
  split.Append("<|im_");
  split.AppendLiteral("end|>");
  EXPECT_THAT(split.literal, ::testing::ElementsAre(ByteRange{5, 10}));
  EXPECT_THAT(tokenizer->Encode(split).value(), Not(Contains(502)));
  // 502 takes the white space after it, but not the user's.
  Tokenizer::Text space;
  space.Append("<|im_end|> ");
  space.AppendLiteral("  ");
  EXPECT_EQ(tokenizer->EncodeWithOffsets(space)->offsets[0], (ByteRange{0, 11}));
}

TEST(TokenizerTest, LiteralTextInTheNormalisedText) {
  const auto tokenizer = LoadVariant("added");  // 505 is "é!", looked for after NFC
  Tokenizer::Text text;
  text.Append("e\u0301! ");
  text.AppendLiteral("e\u0301!");
  const auto encoding = tokenizer->EncodeWithOffsets(text);
  ASSERT_TRUE(encoding.ok());
  EXPECT_EQ(std::count(encoding->ids.begin(), encoding->ids.end(), 505), 1);
  EXPECT_EQ(encoding->offsets[0], (ByteRange{0, 4}));
}

TEST(TokenizerTest, TextAppendMovesRanges) {
  Tokenizer::Text first, second;
  first.Append("ab");
  second.Append("c");
  second.AppendLiteral("de");
  second.AppendLiteral("");
  first.Append(second);
  EXPECT_EQ(first.utf8, "abcde");
  EXPECT_THAT(first.literal, ::testing::ElementsAre(ByteRange{3, 5}));
}

TEST(TokenizerTest, OffsetsOfNormalisedText) {
  const auto tokenizer = LoadVariant("qwen");
  Tokenizer::Text text;
  text.Append("x e\u0301y");
  const auto encoding = tokenizer->EncodeWithOffsets(text);
  ASSERT_TRUE(encoding.ok());
  // é is one character of two bytes after NFC, each a token here; both come from e and its accent.
  EXPECT_EQ(encoding->offsets.front(), (ByteRange{0, 1}));
  EXPECT_EQ(encoding->offsets.back(), (ByteRange{5, 6}));
  EXPECT_THAT(encoding->offsets, Contains(ByteRange{2, 5}));
}

TEST(TokenizerTest, NulSurvives) {
  const auto tokenizer = LoadVariant("qwen");
  const std::string text("a\0b\0", 4);
  EXPECT_EQ(tokenizer->Decode(Ids(*tokenizer, text), false), text);
}

TEST(TokenizerTest, RefusesBrokenUtf8AndSaysWhere) {
  const auto tokenizer = LoadVariant("qwen");
  const std::pair<std::string, std::string> cases[] = {
      {"abc\xFF", "byte 3"},          {"\xC3", "byte 0"},           {"12345678\x80", "byte 8"},
      {"a\xED\xA0\x80", "byte 1"},    {"\xC0\xAF", "byte 0"},       {"é\xE2\x82", "byte 2"},
      {"\xF4\x90\x80\x80", "byte 0"}, {"ab\xF0\x9F\x98", "byte 2"},
  };
  for (const auto& [text, where] : cases) {
    const absl::Status status = tokenizer->Encode(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(where));
  }
}

TEST(TokenizerTest, RefusesLiteralRangesOutOfPlace) {
  const auto tokenizer = LoadVariant("qwen");
  for (const std::vector<ByteRange>& ranges : std::vector<std::vector<ByteRange>>{
           {{0, 9}}, {{3, 2}}, {{1, 2}, {0, 1}}, {{0, 2}}, {{2, 3}}}) {
    EXPECT_EQ(tokenizer->Encode({"aé", ranges}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(TokenizerTest, RefusesEndlessCombiningMarks) {
  const auto tokenizer = LoadVariant("qwen");
  std::string text = "a";
  for (size_t i = 0; i <= Normalizer::kMaxCombiningRun; ++i) text += i % 2 ? "\u0301" : "\u0334";
  EXPECT_EQ(tokenizer->Encode(text).status().code(), absl::StatusCode::kInvalidArgument);
}

// Quadratic time would take minutes here; the test's own time limit is the judge.
TEST(TokenizerTest, LongRunsStayLinear) {
  for (const char* name : {"qwen", "smollm2", "llama3", "gpt4o"}) {
    const auto tokenizer = LoadVariant(name);
    for (const char* unit :
         {"a", " ", "\n", "1", "漢", " \n", "'", "ab ", "<|im_start|>", "<|im_", "\u0301"}) {
      std::string text;
      while (text.size() < 400'000) text += unit;
      const auto ids = tokenizer->Encode(text);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(tokenizer->Decode(*ids, false), text);
    }
  }
}

TEST(TokenizerTest, ManyThreadsAgree) {
  const auto tokenizer = LoadVariant("qwen");
  const std::string text =
      testing::ReadFile(SourcePath("tests/compute_node/model/tokenizer_seed.txt"));
  const std::vector<int32_t> expected = Ids(*tokenizer, text);
  std::vector<std::thread> threads;
  std::vector<bool> same(4);
  std::vector<std::vector<int32_t>> results(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { results[i] = Ids(*tokenizer, text); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(TokenizerTest, ReadsTheFilesBeside) {
  const TempFolder folder;
  const std::string path = folder.Write("tokenizer.json", TinyTokenizer().dump());
  folder.Write("special_tokens_map.json", R"({"bos_token": "a", "pad_token": {"content": "c"}})");
  folder.Write("tokenizer_config.json",
               R"({"bos_token": "b", "eos_token": {"content": "<s>"},
                   "chat_template": [{"name": "x", "template": "X"}, {"name": "default", "template": "D"}]})");
  const auto tokenizer = testing::MustLoad(path);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 20);
  EXPECT_EQ(tokenizer->pad_id(), 2);
  EXPECT_EQ(tokenizer->chat_template(), "D");
  folder.Write("chat_template.jinja", "J");
  EXPECT_EQ(testing::MustLoad(path)->chat_template(), "J");
  folder.Write("tokenizer_config.json", "{");
  EXPECT_EQ(Tokenizer::Load(path).status().code(), absl::StatusCode::kInvalidArgument);
}

absl::Status LoadStatus(const std::string& text) {
  const TempFolder folder;
  return Tokenizer::Load(folder.Write("tokenizer.json", text)).status();
}

TEST(BrokenTokenizerTest, MissingFile) {
  EXPECT_EQ(Tokenizer::Load("/nowhere/tokenizer.json").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(BrokenTokenizerTest, EveryTruncation) {
  const std::string whole = TinyTokenizer().dump();
  for (size_t size = 0; size < whole.size(); ++size) {
    const absl::Status status = LoadStatus(whole.substr(0, size));
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << size;
    ASSERT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
  }
  EXPECT_TRUE(LoadStatus(whole).ok());
}

struct Broken {
  std::string patch;    // RFC 7396
  std::string message;  // part of the error
};

class BrokenTokenizerPatchTest : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenTokenizerPatchTest, IsRefusedByName) {
  json tokenizer = TinyTokenizer();
  tokenizer.merge_patch(json::parse(GetParam().patch));
  const absl::Status status = LoadStatus(tokenizer.dump());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << GetParam().patch;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenTokenizerPatchTest,
    ::testing::ValuesIn(std::vector<Broken>{
        {R"({"model": null})", "model is missing"},
        {R"({"model": []})", "model is missing"},
        {R"({"model": {"type": "WordPiece"}})", "'WordPiece'"},
        {R"({"model": {"type": 3}})", "model.type"},
        {R"({"model": {"vocab": null}})", "model.vocab"},
        {R"({"model": {"vocab": []}})", "model.vocab"},
        {R"({"model": {"vocab": {"a": -1}}})", "the id of 'a'"},
        {R"({"model": {"vocab": {"a": 1e99}}})", "the id of 'a'"},
        {R"({"model": {"vocab": {"a": 4294967297}}})", "the id of 'a'"},
        {R"({"model": {"vocab": {"a": "0"}}})", "the id of 'a'"},
        {R"({"model": {"merges": null}})", "model.merges"},
        {R"({"model": {"merges": {}}})", "model.merges"},
        {R"({"model": {"merges": ["a b", "a x"]}})", "'x'"},
        {R"({"model": {"merges": ["b a"]}})", "'ba'"},
        {R"({"model": {"merges": ["a"]}})", "model.merges[0]"},
        {R"({"model": {"merges": ["a b c"]}})", "model.merges[0]"},
        {R"({"model": {"merges": [["a"]]}})", "model.merges[0]"},
        {R"({"model": {"merges": [["a", 1]]}})", "model.merges[0]"},
        {R"({"model": {"merges": [7]}})", "model.merges[0]"},
        {R"({"model": {"dropout": 0.1}})", "dropout"},
        {R"({"model": {"end_of_word_suffix": "</w>"}})", "end_of_word_suffix"},
        {R"({"model": {"continuing_subword_prefix": "##"}})", "continuing_subword_prefix"},
        {R"({"model": {"unk_token": "<unk>"}})", "'<unk>'"},
        {R"({"model": {"ignore_merges": "yes"}})", "ignore_merges"},
        {R"({"pre_tokenizer": null})", "ByteLevel"},
        {R"({"pre_tokenizer": {"type": "Metaspace"}})", "'Metaspace'"},
        {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": null}})", "Sequence"},
        {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}]}})",
         "'Whitespace'"},
        {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}})", "ByteLevel"},
        {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers":
             [{"type": "ByteLevel"}, {"type": "Digits"}]}})",
         "after ByteLevel"},
        {R"({"pre_tokenizer": {"type": "Split", "behavior": "Shuffled",
             "pattern": {"String": "x"}}})",
         "'Shuffled'"},
        {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated"}})", "pattern"},
        {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated",
             "pattern": {"Regex": "(a"}}})",
         "byte 2"},
        {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated",
             "pattern": {"Regex": "\\h+"}}})",
         "\\h"},
        {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated",
             "pattern": {"Regex": "\\C"}}})",
         "\\C"},
        {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated",
             "pattern": {"Regex": "[a&&[b]]"}}})",
         "&&"},
        {R"({"pre_tokenizer": {"add_prefix_space": 1}})", "add_prefix_space"},
        {R"({"normalizer": {"type": "NFKC"}})", "'NFKC'"},
        {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}})",
         "'Lowercase'"},
        {R"({"added_tokens": {}})", "added_tokens"},
        {R"({"added_tokens": [{"content": "x"}]})", "added_tokens[0].id"},
        {R"({"added_tokens": [{"id": 1, "content": 5}]})", "added_tokens[0].content"},
        {R"({"added_tokens": [{"id": 1, "content": "a"}]})", "'a'"},
        {R"({"added_tokens": [{"id": 99999999, "content": "x"}]})", "added_tokens[0].id"},
    }));

TEST(BrokenTokenizerTest, DeepNesting) {
  json pre_tokenizer = {{"type", "ByteLevel"}};
  json normalizer = {{"type", "NFC"}};
  for (int i = 0; i < 1000; ++i) {
    pre_tokenizer = {{"type", "Sequence"}, {"pretokenizers", {pre_tokenizer}}};
    normalizer = {{"type", "Sequence"}, {"normalizers", {normalizer}}};
  }
  json tokenizer = TinyTokenizer();
  tokenizer["pre_tokenizer"] = pre_tokenizer;
  EXPECT_THAT(std::string(LoadStatus(tokenizer.dump()).message()), HasSubstr("nested"));
  tokenizer = TinyTokenizer();
  tokenizer["normalizer"] = normalizer;
  EXPECT_THAT(std::string(LoadStatus(tokenizer.dump()).message()), HasSubstr("nested"));
}

}  // namespace
}  // namespace msa::compute_node

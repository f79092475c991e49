// Token ids of the Hugging Face `tokenizers` library on 60,000 composed lines and nine tokenizers,
// and on the corpora of MSA_CORPORA_DIR. make_tokenizer_vectors.py made the vectors and explains a
// block that differs.
#include <gtest/gtest.h>
#include <xxhash.h>
#include <zstd.h>

#include <cstdlib>
#include <filesystem>
#include <iomanip>

#include "common/strings.h"
#include "common/utf8.h"
#include "tests/compute_node/model/tokenizer_test_util.h"

namespace msa::compute_node {
namespace {

using nlohmann::json;
using testing::ReadFile;
using testing::ReadJson;
using testing::SourcePath;

const std::string kFolder = "tests/compute_node/model/";

std::u32string Decode(std::string_view utf8) {
  std::u32string text;
  while (!utf8.empty()) {
    const Utf8Char next = NextUtf8(utf8);
    EXPECT_EQ(next.state, Utf8State::kWhole);
    text.push_back(next.code_point);
    utf8.remove_prefix(next.size);
  }
  return text;
}

// splitmix64, as in make_tokenizer_vectors.py.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Below(uint64_t limit) {
    state_ += 0x9E3779B97F4A7C15u;
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (z ^ z >> 31) % limit;
  }
  const json& Choice(const json& items) { return items[Below(items.size())]; }

 private:
  uint64_t state_;
};

// Composes line i from the recipe and the seed text: the twin of make_line() in Python.
class LineMaker {
 public:
  LineMaker()
      : recipe_(ReadJson(SourcePath(kFolder + "tokenizer_recipe.json"))),
        seed_(Decode(ReadFile(SourcePath(kFolder + "tokenizer_seed.txt")))) {}

  const json& recipe() const { return recipe_; }

  std::string Line(uint64_t index) const {
    Random random(index);
    std::string line;
    const uint64_t parts = 1 + random.Below(24);
    for (uint64_t i = 0; i < parts; ++i) AppendPart(&random, &line);
    return line;
  }

 private:
  void AppendPart(Random* random, std::string* line) const {
    const uint64_t kind = random->Below(100);
    if (kind < 30) {
      const uint64_t start = random->Below(seed_.size());
      const uint64_t size = 1 + random->Below(40);
      for (const char32_t c : seed_.substr(start, size)) AppendUtf8(c, line);
    } else if (kind < 55) {
      const char32_t c = Character(random);
      Repeat(c, 1 + random->Below(3), line);
    } else if (kind < 70) {
      *line += random->Choice(recipe_["words"]).get<std::string>();
    } else if (kind < 84) {
      const std::string space = random->Choice(recipe_["spaces"]);
      const uint64_t count = 1 + random->Below(4);
      for (uint64_t i = 0; i < count; ++i) *line += space;
    } else if (kind < 92) {
      const char32_t zero = random->Choice(recipe_["zeros"]).get<uint32_t>();
      const uint64_t count = 1 + random->Below(6);
      for (uint64_t i = 0; i < count; ++i) AppendUtf8(zero + random->Below(10), line);
    } else if (kind < 99) {
      *line += random->Choice(recipe_["specials"]).get<std::string>();
    } else {
      const char32_t c = Character(random);
      Repeat(c, 50 + random->Below(300), line);
    }
  }

  char32_t Character(Random* random) const {
    const json& plane = random->Choice(recipe_["planes"]);
    const uint32_t first = plane[0], last = plane[1];
    const char32_t c = first + random->Below(last - first + 1);
    return c >= 0xD800 && c < 0xE000 ? 0xFFFD : c;
  }

  static void Repeat(char32_t c, uint64_t count, std::string* line) {
    for (uint64_t i = 0; i < count; ++i) AppendUtf8(c, line);
  }

  json recipe_;
  std::u32string seed_;
};

const LineMaker& Lines() {
  static const LineMaker* const kLines = new LineMaker();
  return *kLines;
}

class Hash {
 public:
  Hash() : state_(XXH3_createState()) { XXH3_64bits_reset(state_); }
  ~Hash() { XXH3_freeState(state_); }
  void Add(const void* bytes, size_t size) { XXH3_64bits_update(state_, bytes, size); }
  void AddIds(const std::vector<int32_t>& ids) {
    const auto size = static_cast<int32_t>(ids.size());
    Add(&size, sizeof(size));
    Add(ids.data(), ids.size() * sizeof(int32_t));
  }
  std::string Hex() const {
    std::ostringstream hex;
    hex << std::hex << std::setw(16) << std::setfill('0') << XXH3_64bits_digest(state_);
    return hex.str();
  }

 private:
  XXH3_state_t* state_;
};

std::vector<std::string> VariantNames() {
  std::vector<std::string> names;
  for (const json& variant : Lines().recipe()["variants"]) names.push_back(variant["name"]);
  return names;
}

TEST(TokenizerVectorsTest, LinesAreTheReferenceLines) {
  const json hashes = ReadJson(SourcePath(kFolder + "tokenizer_hashes.json"));
  const uint64_t block_lines = hashes["block_lines"];
  uint64_t index = 0;
  for (const json& expected : hashes["text"]) {
    Hash hash;
    for (uint64_t i = 0; i < block_lines; ++i, ++index) {
      const std::string line = Lines().Line(index);
      if (i > 0) hash.Add("\n", 1);
      hash.Add(line.data(), line.size());
    }
    ASSERT_EQ(hash.Hex(), expected) << "lines before " << index;
  }
  EXPECT_EQ(index, 60'000u);
}

class TokenizerVariantTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { tokenizer_ = testing::LoadVariant(GetParam()); }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerVariantTest, SixtyThousandLines) {
  const json hashes = ReadJson(SourcePath(kFolder + "tokenizer_hashes.json"));
  const uint64_t block_lines = hashes["block_lines"];
  uint64_t index = 0;
  int different = 0;
  for (const json& expected : hashes["ids"][GetParam()]) {
    Hash hash;
    for (uint64_t i = 0; i < block_lines; ++i, ++index) {
      const auto ids = tokenizer_->Encode(Lines().Line(index));
      ASSERT_TRUE(ids.ok()) << ids.status();
      hash.AddIds(*ids);
    }
    if (hash.Hex() == expected) continue;
    ADD_FAILURE() << "to see the lines: make_tokenizer_vectors.py --explain " << GetParam() << " "
                  << index / block_lines - 1;
    if (++different == 3) break;
  }
  EXPECT_EQ(index, 60'000u);
}

TEST_P(TokenizerVariantTest, StoredLines) {
  const json cases = ReadJson(SourcePath(kFolder + "tokenizer_cases.json"));
  const json& expected = cases["ids"][GetParam()];
  ASSERT_EQ(expected.size(), cases["lines"].size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto ids = tokenizer_->Encode(cases["lines"][i].get<std::string>());
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected[i].get<std::vector<int32_t>>()) << cases["lines"][i];
  }
}

TEST_P(TokenizerVariantTest, OffsetsAscendAndCoverTheirTokens) {
  for (uint64_t index = 0; index < 2000; ++index) {
    Tokenizer::Text text;
    text.Append(Lines().Line(index));
    const auto encoding = tokenizer_->EncodeWithOffsets(text);
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    ASSERT_EQ(encoding->ids.size(), encoding->offsets.size());
    ASSERT_EQ(encoding->ids, tokenizer_->Encode(text).value());
    size_t begin = 0;
    for (const ByteRange& range : encoding->offsets) {
      ASSERT_LE(begin, range.begin) << index;
      ASSERT_LE(range.begin, range.end) << index;
      ASSERT_LE(range.end, text.utf8.size()) << index;
      begin = range.begin;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, TokenizerVariantTest, ::testing::ValuesIn(VariantNames()),
                         [](const auto& info) { return info.param; });

TEST(TokenizerVectorsTest, Decodes) {
  const json cases = ReadJson(SourcePath(kFolder + "tokenizer_cases.json"));
  for (const std::string name : {"qwen", "smollm2"}) {
    const auto tokenizer = testing::LoadVariant(name);
    int checked = 0;
    for (const json& decode : cases["decodes"]) {
      if (decode["variant"] != name) continue;
      const std::vector<int32_t> ids = decode["ids"];
      const bool skip_special = decode["skip_special"];
      EXPECT_EQ(tokenizer->Decode(ids, skip_special), decode["text"].get<std::string>());
      Tokenizer::StreamDecoder stream(*tokenizer, skip_special);
      std::string streamed;
      for (const int32_t id : ids) streamed += stream.Push(id);
      EXPECT_EQ(streamed + stream.Flush(), decode["text"].get<std::string>());
      ++checked;
    }
    EXPECT_EQ(checked, 60);
  }
}

std::string Decompress(const std::string& path) {
  const std::string compressed = ReadFile(path);
  ZSTD_DCtx* context = ZSTD_createDCtx();
  ZSTD_inBuffer input = {compressed.data(), compressed.size(), 0};
  std::string text;
  std::vector<char> block(1 << 20);
  while (input.pos < input.size) {
    ZSTD_outBuffer output = {block.data(), block.size(), 0};
    const size_t result = ZSTD_decompressStream(context, &output, &input);
    EXPECT_FALSE(ZSTD_isError(result)) << path;
    if (ZSTD_isError(result)) break;
    text.append(block.data(), output.pos);
  }
  ZSTD_freeDCtx(context);
  return text;
}

TEST(TokenizerVectorsTest, RealTexts) {
  const char* folder = std::getenv("MSA_CORPORA_DIR");
  if (folder == nullptr) GTEST_SKIP() << "MSA_CORPORA_DIR is not set: real texts are not compared";
  const json hashes = ReadJson(SourcePath(kFolder + "tokenizer_hashes.json"));
  size_t texts = 0;
  for (const auto& [corpus, expected] : hashes["corpora"].items()) {
    const std::string path = StrCat(folder, "/qa/", corpus, ".jsonl.zst");
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
    std::istringstream lines(Decompress(path));
    std::vector<std::string> corpus_texts;
    for (std::string line; std::getline(lines, line);) {
      corpus_texts.push_back(json::parse(line)["text"]);
    }
    EXPECT_EQ(corpus_texts.size(), expected["texts"]) << corpus;
    texts += corpus_texts.size();
    for (const auto& [name, ids_hash] : expected["ids"].items()) {
      const auto tokenizer = testing::LoadVariant(name);
      Hash hash;
      for (const std::string& text : corpus_texts) hash.AddIds(tokenizer->Encode(text).value());
      EXPECT_EQ(hash.Hex(), ids_hash) << corpus << " " << name;
    }
  }
  EXPECT_GT(texts, 40'000u);
}

}  // namespace
}  // namespace msa::compute_node

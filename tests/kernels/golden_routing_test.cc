// Routing of the published engine's golden cases: scores and selections from its own queries and
// keys, on every backend.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "common/safetensors.h"
#include "common/strings.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "tests/kernels/backend_fixture.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/tolerances.h"

namespace msa::kernels {
namespace {

using ::msa::testing::BackendTest;
using ::msa::testing::GuardedBuffer;
using ::msa::testing::Tolerances;

constexpr char kGoldenDir[] = MSA_SOURCE_DIR "/tests/golden";

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
}

Reduce ParseReduce(const std::string& name) {
  return name == "mean" ? Reduce::kMean : name == "max" ? Reduce::kMax : Reduce::kLast;
}

// golden/README.md: scale 1 when routing is both cosine and decoupled, else D^-1/2.
RoutingShape ShapeOf(const nlohmann::json& config) {
  const nlohmann::json& msa = config["msa_config"];
  RoutingShape shape;
  shape.num_q_heads = config["num_attention_heads"];
  shape.num_kv_heads = config["num_key_value_heads"];
  shape.head_dim = config["head_dim"];
  shape.head = ParseReduce(msa["head_reduce_method"]);
  shape.query = ParseReduce(msa["query_reduce_method"]);
  shape.chunk = ParseReduce(msa["chunk_reduce_method"]);
  const bool plain = msa["aux_loss_method"] == "INFONCE" && msa["decouple_router"] == true;
  shape.scale = plain ? 1.0f : 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  return shape;
}

// [0, chunks of document 0, + chunks of document 1, …] of a case's own documents, or of the case
// whose documents it uses.
std::vector<int64_t> PartBegin(const std::string& folder) {
  nlohmann::json input = ReadJson(folder + "/input.json");
  if (!input.contains("documents")) {
    input = ReadJson(std::string(kGoldenDir) + "/qwen3_small/input.json");
  }
  std::vector<int64_t> begin = {0};
  for (const nlohmann::json& document : input["documents"]) {
    begin.push_back(begin.back() + document["chunks"].get<int64_t>());
  }
  return begin;
}

class GoldenRoutingTest : public BackendTest {
 protected:
  std::vector<float> Read(const std::string& name) {
    const TensorView* view = file_->FindOrNull(name);
    EXPECT_NE(view, nullptr) << name;
    return *ToFloat32(*view);
  }

  void CheckLayer(const std::string& prefix, const std::string& keys_name,
                  const RoutingShape& shape, const std::vector<int64_t>& part_begin) {
    const std::vector<float> keys = Read(keys_name);
    std::vector<float> queries = Read(prefix + "routing_q");
    const int num_rows = static_cast<int>(queries.size()) / (shape.num_q_heads * shape.head_dim);
    if (shape.folded()) {
      GuardedBuffer<float> folded(num_rows * shape.key_width());
      backend_->FoldQueries(queries.data(), num_rows, shape.num_q_heads, shape.num_kv_heads,
                            shape.head_dim, folded.data());
      queries.assign(folded.data(), folded.data() + folded.size());
      const std::vector<float> expected = Read(prefix + "folded_q");
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(queries[i], expected[i], Tolerances::kGoldenFolded);
      }
    }
    GuardedBuffer<float> scores(part_begin.size() - 1);
    ASSERT_EQ(static_cast<int64_t>(keys.size()), part_begin.back() * shape.key_width());
    const std::vector<int32_t> query_begin = {0, num_rows};
    backend_->ScoreParts({.shape = shape,
                          .segment = {.keys = keys.data(), .part_begin = part_begin},
                          .queries = queries.data(),
                          .query_begin = query_begin,
                          .scores = scores.data()});
    const std::vector<float> expected = Read(prefix + "doc_scores");
    ASSERT_EQ(expected.size(), scores.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(scores[i], expected[i], Tolerances::kGoldenScore) << prefix << i;
    }
    CheckSelection(prefix, scores.span());
  }

  void CheckSelection(const std::string& prefix, absl::Span<const float> scores) {
    const std::vector<int64_t> expected = *ToInt64(*file_->FindOrNull(prefix + "selected"));
    std::vector<int64_t> references(scores.size());
    std::iota(references.begin(), references.end(), 0);
    const std::vector<ScoredPart> selected =
        backend_->SelectTopK(scores, references, nullptr, static_cast<int>(expected.size()));
    ASSERT_EQ(selected.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(selected[i].reference, expected[i]) << prefix;
    }
  }

  // Returns the number of router layers checked.
  int CheckCase(const std::string& folder) {
    SCOPED_TRACE(folder);
    auto file = SafetensorsFile::Open(folder + "/expected.safetensors");
    EXPECT_TRUE(file.ok()) << file.status();
    if (!file.ok()) return 0;
    file_ = *std::move(file);
    const RoutingShape shape = ShapeOf(ReadJson(folder + "/config.json"));
    const std::vector<int64_t> part_begin = PartBegin(folder);
    int layers = 0;
    for (int layer = 0; layer < 64; ++layer) {
      const std::string prefix = StrCat("prefill.layers.", layer, ".");
      if (file_->FindOrNull(prefix + "doc_scores") == nullptr) continue;
      CheckLayer(prefix, StrCat("layers.", layer, ".routing_keys"), shape, part_begin);
      ++layers;
    }
    return layers;
  }

  std::unique_ptr<SafetensorsFile> file_;
};

TEST_P(GoldenRoutingTest, ScoresAndSelectionsOfThePublishedEngine) {
  if (!std::filesystem::exists(std::string(kGoldenDir) + "/qwen3_small")) {
    GTEST_SKIP() << "no golden vectors in " << kGoldenDir;
  }
  EXPECT_EQ(CheckCase(std::string(kGoldenDir) + "/qwen3_small"), 2);
  EXPECT_EQ(CheckCase(std::string(kGoldenDir) + "/gqa_p64"), 2);
}

TEST_P(GoldenRoutingTest, EveryReductionOfThePublishedEngine) {
  const std::string folder = std::string(kGoldenDir) + "/reduce_variants";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no golden vectors in " << folder;
  int cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!entry.is_directory()) continue;
    EXPECT_GE(CheckCase(entry.path().string()), 1);
    ++cases;
  }
  EXPECT_EQ(cases, 10);
}

MSA_ON_EVERY_BACKEND(GoldenRoutingTest);

}  // namespace
}  // namespace msa::kernels

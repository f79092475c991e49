#include "compute_node/model/weights.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "common/file.h"
#include "common/safetensors.h"
#include "compute_node/model/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

// Writes a safetensors file of float32 tensors.
class Writer {
 public:
  void Add(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values) {
    const size_t begin = bytes_.size();
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    header_[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, bytes_.size()}}};
  }
  void Write(const fs::path& path) const {
    const std::string header = header_.dump();
    const uint64_t size = header.size();
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), sizeof(size));
    out << header << bytes_;
  }

 private:
  json header_;
  std::string bytes_;
};

// A copy of a tiny checkpoint to damage.
class WeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ =
        fs::path(::testing::TempDir()) /
        (std::string("weights_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(dir_);
    fs::copy(std::string(MSA_SOURCE_DIR) + "/tests/golden/families/llama_bias", dir_,
             fs::copy_options::recursive);
  }
  void TearDown() override { fs::remove_all(dir_); }

  absl::StatusOr<ModelWeights> Load(const std::string& adapter = "") {
    auto config = ParseModelConfig(*ReadFile(dir_ / "config.json", 1 << 20));
    WeightSource source;
    source.model_dir = dir_;
    if (!adapter.empty()) {
      auto read = ReadAdapterConfig(adapter, *config);
      if (!read.ok()) return read.status();
      source.adapter = *std::move(read);
    }
    return LoadWeights(source, *config, *backend_, kernels::WeightFormat::kFloat32);
  }

  // Overwrites bytes of the tensor's first element.
  void Poke(const std::string& tensor, float value) {
    const auto file = *SafetensorsFile::Open(dir_ / "model.safetensors");
    const auto& views = file->tensors();
    const uint8_t* start = views.begin()->second.data.data();
    for (const auto& [name, view] : views) start = std::min(start, view.data.data());
    const auto data_begin = fs::file_size(dir_ / "model.safetensors") - DataBytes(*file);
    const auto offset = data_begin + (file->Find(tensor)->data.data() - start);
    std::fstream out(dir_ / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(offset));
    out.write(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static size_t DataBytes(const SafetensorsFile& file) {
    size_t sum = 0;
    for (const auto& [name, view] : file.tensors()) sum += view.data.size();
    return sum;
  }

  fs::path dir_;
  std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("cpu", 1);
};

TEST_F(WeightsTest, RefusesNanAndInfinityNamingTheTensor) {
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Poke("model.layers.1.mlp.up_proj.weight", bad);
    const auto weights = Load();
    ASSERT_FALSE(weights.ok());
    EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(weights.status().message()),
                HasSubstr("model.layers.1.mlp.up_proj.weight"));
  }
}

TEST_F(WeightsTest, RefusesATruncatedFile) {
  const fs::path file = dir_ / "model.safetensors";
  fs::resize_file(file, fs::file_size(file) - 100);
  const auto weights = Load();
  ASSERT_FALSE(weights.ok());
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("model.safetensors"));
}

TEST_F(WeightsTest, NamesTheTensorThatDoesNotFitTheConfiguration) {
  json config = json::parse(*ReadFile(dir_ / "config.json", 1 << 20));
  config["intermediate_size"] = 81;
  std::ofstream(dir_ / "config.json") << config;
  const auto weights = Load();
  ASSERT_FALSE(weights.ok());
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("gate_proj"));
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("[80]"));
}

TEST_F(WeightsTest, NamesAMissingFile) {
  fs::remove(dir_ / "model.safetensors");
  const auto weights = Load();
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(weights.status().message()), HasSubstr("model.safetensors"));
}

TEST_F(WeightsTest, FingerprintFollowsEveryByte) {
  const std::string before = Load()->fingerprint;
  EXPECT_EQ(before.size(), 32u);
  EXPECT_EQ(Load()->fingerprint, before);
  Poke("model.norm.weight", 1.25f);
  EXPECT_NE(Load()->fingerprint, before);
}

// Banks are bound to it: of one version it is that of all. By xxhash over the file in Python.
TEST_F(WeightsTest, FingerprintIsThatOfEveryVersion) {
  EXPECT_EQ(Load()->fingerprint, "d3adcaa8028ef749e3400bb0c7f184e5");
}

// Hashed layer by layer as they are read, or at once: the same.
TEST_F(WeightsTest, FingerprintOfPiecesIsThatOfTheWhole) {
  Writer writer;
  std::vector<std::string> names = {"lm_head.weight", "model.embed_tokens.weight",
                                    "model.norm.weight"};
  for (int layer = 0; layer < 12; ++layer) {
    names.push_back("model.layers." + std::to_string(layer) + ".a");
    names.push_back("model.layers." + std::to_string(layer) + ".b");
  }
  for (const std::string& name : names) writer.Add(name, {1}, {static_cast<float>(name.size())});
  writer.Write(dir_ / "twelve.safetensors");
  Checkpoint checkpoint;
  ASSERT_TRUE(checkpoint.AddFile(dir_ / "twelve.safetensors").ok());
  Fingerprint whole, pieces;
  whole.AddRest(checkpoint);
  pieces.AddThrough(checkpoint, "model.embed_tokens.");
  for (int layer : {0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9}) {
    pieces.AddThrough(checkpoint, "model.layers." + std::to_string(layer) + ".");
  }
  pieces.AddRest(checkpoint);
  pieces.AddRest(checkpoint);  // nothing is left
  EXPECT_EQ(pieces.Hex(), whole.Hex());
}

class AdapterTest : public WeightsTest {
 protected:
  void SetUp() override {
    WeightsTest::SetUp();
    adapter_ = dir_ / "adapter";
    fs::create_directory(adapter_);
    std::ofstream(adapter_ / "adapter_config.json") << json{{"r", 2}, {"lora_alpha", 6}};
  }
  fs::path adapter_;
};

TEST_F(AdapterTest, MergesScaledLowRankProduct) {
  // o_proj is [48, 48]; A picks input 5, B writes outputs 7 and 8: two elements of the product move
  // by 3 · b · a.
  std::vector<float> a(2 * 48), b(48 * 2);
  a[5] = 0.5f;
  b[7 * 2] = 2.0f;
  b[8 * 2] = -1.0f;
  Writer writer;
  const std::string lora = "base_model.model.model.layers.0.self_attn.o_proj";
  writer.Add(lora + ".lora_A.weight", {2, 48}, a);
  writer.Add(lora + ".lora_B.weight", {48, 2}, b);
  writer.Write(adapter_ / "adapter.safetensors");
  const auto plain = Load();
  const auto merged = Load(adapter_);
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_NE(plain->fingerprint, merged->fingerprint);
  std::vector<float> x(48), before(48), after(48);
  x[5] = 1.0f;
  backend_->Linear(*plain->layers[0].o, x.data(), 1, nullptr, before.data());
  backend_->Linear(*merged->layers[0].o, x.data(), 1, nullptr, after.data());
  for (int i = 0; i < 48; ++i) {
    const float expected = i == 7 ? 3.0f : i == 8 ? -1.5f : 0.0f;
    EXPECT_NEAR(after[i] - before[i], expected, 1e-6) << i;
  }
}

TEST_F(AdapterTest, SaysWhatIsWrongWithAnAdapter) {
  EXPECT_EQ(Load(adapter_).status().code(), absl::StatusCode::kNotFound);
  Writer writer;
  writer.Add("base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight", {2, 47},
             std::vector<float>(94));
  writer.Write(adapter_ / "adapter.safetensors");
  EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr("lora_A"));
  for (const json& config : {json{{"r", -1}}, json{{"r", nullptr}}, json{{"lora_alpha", 2}}}) {
    std::ofstream(adapter_ / "adapter_config.json") << config;
    EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr("field 'r'"));
  }
  std::ofstream(adapter_ / "adapter_config.json") << json{{"r", 0}};
  EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr("'r' is 0"));
  std::ofstream(adapter_ / "adapter_config.json") << json{{"r", 2}};
  EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr("'lora_alpha'"));
  std::ofstream(adapter_ / "adapter_config.json") << json{{"r", 2}, {"lora_alpha", 1e39}};
  EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr("'lora_alpha'"));
  std::ofstream(adapter_ / "adapter_config.json")
      << "{\"r\": " << std::string(500'000, '[') << std::string(500'000, ']') << "}";
  EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr("field 'r'"));
  std::ofstream(adapter_ / "adapter_config.json")
      << json{{"r", 2}, {"lora_alpha", 2}, {"rank_pattern", {{"o_proj", 4}}}};
  EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr("rank_pattern"));
  for (const json& wrong : {json{{"r", 2.5}}, json{{"r", 1e300}}, json{{"use_dora", true}},
                            json{{"use_rslora", "no"}}, json{{"fan_in_fan_out", 1}}}) {
    json config = {{"r", 2}, {"lora_alpha", 2}};
    config.update(wrong);
    std::ofstream(adapter_ / "adapter_config.json") << config;
    EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr(wrong.begin().key()));
  }
}

// What `training` writes where all weights were trained: rank 0, tensors by the checkpoint's names.
TEST_F(AdapterTest, TensorsOfTheCheckpointsNamesTakeTheirPlace) {
  const auto write = [&](const std::string& name, std::vector<int64_t> shape, float value) {
    size_t count = 1;
    for (int64_t dim : shape) count *= static_cast<size_t>(dim);
    Writer writer;
    writer.Add(name, shape, std::vector<float>(count, value));
    writer.Write(adapter_ / "adapter.safetensors");
  };
  std::ofstream(adapter_ / "adapter_config.json") << json{{"r", 0}};
  const std::string o_proj = "model.layers.0.self_attn.o_proj.weight";
  write(o_proj, {48, 48}, 0.5f);
  const auto plain = Load();
  const auto replaced = Load(adapter_);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_NE(plain->fingerprint, replaced->fingerprint);
  std::vector<float> x(48, 1.0f), y(48);
  backend_->Linear(*replaced->layers[0].o, x.data(), 1, nullptr, y.data());
  EXPECT_THAT(y, ::testing::Each(24.0f));
  backend_->Linear(*plain->layers[0].o, x.data(), 1, nullptr, y.data());
  EXPECT_THAT(y, ::testing::Not(::testing::Contains(24.0f)));

  write("model.norm.weight", {48}, 0.25f);
  const auto norm = Load(adapter_);
  ASSERT_TRUE(norm.ok()) << norm.status();
  EXPECT_EQ(static_cast<const float*>(norm->final_norm.data())[47], 0.25f);

  for (const auto& [shape, value] : {std::pair(std::vector<int64_t>{48, 47}, 0.5f),
                                     {{48, 48}, std::numeric_limits<float>::infinity()}}) {
    write(o_proj, shape, value);
    EXPECT_THAT(std::string(Load(adapter_).status().message()),
                HasSubstr("adapter tensor " + o_proj));
  }
}

// As PEFT writes it, and as others do who write null for what they leave out.
TEST_F(AdapterTest, ReadsWhatPeftWrites) {
  Writer writer;
  const std::string lora = "base_model.model.model.layers.0.self_attn.o_proj";
  writer.Add(lora + ".lora_A.weight", {2, 48}, std::vector<float>(2 * 48));
  writer.Add(lora + ".lora_B.weight", {48, 2}, std::vector<float>(48 * 2));
  writer.Write(adapter_ / "adapter_model.safetensors");
  for (const char* rest :
       {R"("use_dora": false, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": null})",
        R"("use_dora": null, "use_rslora": null, "fan_in_fan_out": null, "rank_pattern": null})"}) {
    std::ofstream(adapter_ / "adapter_config.json") << R"({"r": 2, "lora_alpha": 4.0, )" << rest;
    EXPECT_TRUE(Load(adapter_).ok()) << Load(adapter_).status();
  }
}

// Each would be served, and answer worse than the adapter can.
TEST_F(AdapterTest, RefusesFilesThatDoNotBelongTogether) {
  const std::string lora = "base_model.model.model.layers.0.self_attn.o_proj";
  const auto write = [&](const std::string& more) {
    Writer writer;
    writer.Add(lora + ".lora_A.weight", {2, 48}, std::vector<float>(2 * 48));
    writer.Add(lora + ".lora_B.weight", {48, 2}, std::vector<float>(48 * 2));
    if (!more.empty()) writer.Add(more, {48, 48}, std::vector<float>(48 * 48));
    writer.Write(adapter_ / "adapter.safetensors");
  };
  write("");
  EXPECT_TRUE(Load(adapter_).ok()) << Load(adapter_).status();
  for (const std::string other : {"base_model.model.model.layers.90.self_attn.o_proj.lora_A.weight",
                                  "model.layers.0.self_attn.router_q_proj.0.weight"}) {
    write(other);
    EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr(other));
  }
  write("");
  std::ofstream(adapter_ / "adapter_config.json") << json{{"r", 4}, {"lora_alpha", 6}};
  EXPECT_THAT(std::string(Load(adapter_).status().message()), HasSubstr("'r' is 4"));
}

}  // namespace
}  // namespace msa::compute_node

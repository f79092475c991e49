#include "compute_node/model/config.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {
namespace {

using nlohmann::json;

// The largest sizes a file may ask for: wide of every published model, small enough that products
// do not overflow.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 30;

absl::Status FieldError(std::string_view field, std::string_view problem) {
  return absl::InvalidArgumentError(StrCat("config.json: field '", field, "' ", problem));
}

// Reads fields of one JSON object; remembers the first error, so that a parser reads as a list of
// fields.
class FieldReader {
 public:
  FieldReader(const json& object, absl::Status& error) : object_(object), error_(error) {}

  int32_t Int(const char* field, int64_t low, int64_t high,
              std::optional<int64_t> fallback = std::nullopt) {
    const json* value = Find(field);
    if (value == nullptr) {
      if (!fallback.has_value()) Fail(field, "is missing");
      return static_cast<int32_t>(fallback.value_or(low));
    }
    if (!value->is_number_integer()) return Fail(field, "must be a whole number"), 0;
    const auto number = value->get<int64_t>();
    if (number < low || number > high) {
      Fail(field, StrCat("is ", number, ", outside ", low, "…", high));
      return static_cast<int32_t>(low);
    }
    return static_cast<int32_t>(number);
  }

  float Float(const char* field, double fallback) {
    const json* value = Find(field);
    if (value == nullptr) return static_cast<float>(fallback);
    if (!value->is_number()) return Fail(field, "must be a number"), 0.0f;
    const auto number = value->get<double>();
    if (std::abs(number) > std::numeric_limits<float>::max()) Fail(field, "is no float32");
    return static_cast<float>(number);
  }

  // What is divided by, or raised to a power.
  float Positive(const char* field, double fallback) {
    const float number = Float(field, fallback);
    if (number <= 0) Fail(field, "must be more than 0");
    return number;
  }

  // Items of an array of token ids or layers.
  std::vector<int32_t> Ints(const char* field, const json& array) {
    std::vector<int32_t> numbers;
    for (const json& item : array) {
      const int64_t number = item.is_number_integer() ? item.get<int64_t>() : INT64_MAX;
      if (static_cast<int32_t>(number) != number) {
        Fail(field, "must hold whole numbers of 32 bits");
        return numbers;
      }
      numbers.push_back(static_cast<int32_t>(number));
    }
    return numbers;
  }

  bool Bool(const char* field, bool fallback) {
    const json* value = Find(field);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return Fail(field, "must be true or false"), fallback;
    return value->get<bool>();
  }

  std::string String(const char* field, std::string fallback) {
    const json* value = Find(field);
    if (value == nullptr) return fallback;
    if (!value->is_string()) return Fail(field, "must be a string"), fallback;
    return value->get<std::string>();
  }

  // The value, or null where it is absent or null.
  const json* Find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  void Fail(std::string_view field, std::string_view problem) {
    if (error_.ok()) error_ = FieldError(field, problem);
  }

 private:
  const json& object_;
  absl::Status& error_;
};

Reduce ReadReduce(FieldReader& reader, const char* field, Reduce fallback, bool may_be_last) {
  const std::string name = reader.String(field, "");
  if (name.empty()) return fallback;
  if (name == "mean") return Reduce::kMean;
  if (name == "max") return Reduce::kMax;
  if (name == "last" && may_be_last) return Reduce::kLast;
  reader.Fail(field, StrCat("is '", name, "'; known here: mean, max", may_be_last ? ", last" : ""));
  return fallback;
}

std::vector<int32_t> UpperHalf(int32_t num_layers) {
  std::vector<int32_t> layers;
  for (int32_t layer = num_layers / 2; layer < num_layers; ++layer) layers.push_back(layer);
  return layers;
}

// "2,3", "all", or an array of numbers.
std::vector<int32_t> ReadRouterLayers(FieldReader& reader, int32_t num_layers) {
  static constexpr char kField[] = "router_layer_idx";
  const json* value = reader.Find(kField);
  std::vector<int32_t> layers;
  if (value == nullptr) return reader.Fail(kField, "is missing"), layers;
  if (value->is_array()) {
    layers = reader.Ints(kField, *value);
  } else if (!value->is_string()) {
    return reader.Fail(kField, "must be \"all\" or a list of layers such as \"18,19\""), layers;
  } else if (value->get<std::string>() == "all") {
    for (int32_t layer = 0; layer < num_layers; ++layer) layers.push_back(layer);
  } else {
    const auto names = value->get<std::string>();
    for (absl::string_view item : absl::StrSplit(names, ',')) {
      int32_t layer = 0;
      if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(item), &layer)) {
        return reader.Fail(kField, "must be \"all\" or a list of layers such as \"18,19\""), layers;
      }
      layers.push_back(layer);
    }
  }
  std::sort(layers.begin(), layers.end());
  if (std::adjacent_find(layers.begin(), layers.end()) != layers.end()) {
    reader.Fail(kField, "names a layer twice");
  }
  if (layers.empty()) reader.Fail(kField, "names no layer");
  if (!layers.empty() && (layers.front() < 0 || layers.back() >= num_layers)) {
    reader.Fail(kField, StrCat("names a layer outside 0…", num_layers - 1));
  }
  return layers;
}

MemoryConfig ReadMemoryConfig(FieldReader& reader, int32_t num_layers) {
  MemoryConfig memory;
  memory.router_layers = ReadRouterLayers(reader, num_layers);
  memory.routing_chunk_tokens = reader.Int("pooling_kernel_size", 1, 4096, 64);
  memory.content_chunk_tokens =
      reader.Int("content_pooling_kernel_size", 1, 4096, memory.routing_chunk_tokens);
  memory.top_k = reader.Int("doc_top_k", 1, 1024, 16);
  memory.decoupled_router = reader.Bool("decouple_router", false);
  memory.cosine = reader.String("aux_loss_method", "") == "INFONCE";
  memory.head_reduce = ReadReduce(reader, "head_reduce_method", Reduce::kMean, false);
  memory.query_reduce = ReadReduce(reader, "query_reduce_method", Reduce::kMax, true);
  memory.chunk_reduce = ReadReduce(reader, "chunk_reduce_method", Reduce::kMax, false);
  memory.final_question_causal = reader.String("final_question", "") == "causal";
  memory.reader_documents = reader.Int("reader_documents", 1, 64, 3);
  const std::string place = reader.String("reader_question", "after");
  if (place == "twice") {
    memory.reader_question = ReaderQuestion::kTwice;
  } else if (place != "after") {
    reader.Fail("reader_question", StrCat("is '", place, "'; known: after, twice"));
  }
  const std::string attention = reader.String("reader_attention", "causal");
  if (attention == "full") {
    memory.reader_full_attention = true;
  } else if (attention != "causal") {
    reader.Fail("reader_attention", StrCat("is '", attention, "'; known: causal, full"));
  }
  memory.router_rounds = reader.Int("router_rounds", 1, 32, 1);
  memory.round_min_score = reader.Float("round_min_score", memory.round_min_score);
  memory.refusal = reader.String("refusal", "");
  memory.refusal_bias = reader.Float("refusal_bias", 0);
  const std::string against = reader.String("refusal_against", "largest");
  if (against == "all") {
    memory.refusal_against_all = true;
  } else if (against != "largest") {
    reader.Fail("refusal_against", StrCat("is '", against, "'; known: largest, all"));
  }
  if (reader.Find("reader_apart_margin") != nullptr) {
    memory.reader_apart_margin = reader.Float("reader_apart_margin", 0);
    if (memory.refusal.empty()) {
      reader.Fail("reader_apart_margin",
                  "needs refusal, the sentence whose first token it compares");
    }
  }
  memory.part_tokens = reader.Int("part_tokens", 32, 32768, 512);
  const std::string mode = reader.String("retrieval_mode", "generative");
  if (auto parsed = ParseRetrievalMode(mode); parsed.ok()) {
    memory.retrieval_mode = *parsed;
  } else {
    reader.Fail("retrieval_mode", StrCat("is '", mode, "'; known: generative, router"));
  }
  return memory;
}

// transformers 5 writes `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`.
RopeConfig ReadRope(FieldReader& reader, absl::Status& error) {
  RopeConfig rope;
  rope.theta = reader.Positive("rope_theta", 10000);
  const json* scaling = reader.Find("rope_parameters");
  if (scaling == nullptr) scaling = reader.Find("rope_scaling");
  if (scaling == nullptr) return rope;
  if (!scaling->is_object()) return reader.Fail("rope_scaling", "must be an object"), rope;
  FieldReader fields(*scaling, error);
  rope.theta = fields.Positive("rope_theta", rope.theta);
  const std::string type = fields.String("rope_type", fields.String("type", "default"));
  if (type == "default") return rope;
  rope.factor = fields.Positive("factor", 1);
  if (type == "linear") {
    rope.scaling = RopeConfig::Scaling::kLinear;
  } else if (type == "llama3") {
    rope.scaling = RopeConfig::Scaling::kLlama3;
    rope.low_freq_factor = fields.Positive("low_freq_factor", 1);
    rope.high_freq_factor = fields.Positive("high_freq_factor", 4);
    rope.original_max_positions = fields.Positive("original_max_position_embeddings", 8192);
  } else {
    reader.Fail("rope_scaling", StrCat("has type '", type, "'; known: default, linear, llama3"));
  }
  return rope;
}

void ReadEndTokens(FieldReader& reader, std::vector<int32_t>& ids) {
  const json* value = reader.Find("eos_token_id");
  if (value == nullptr) return;
  if (value->is_number_integer()) {
    ids = reader.Ints("eos_token_id", json::array({*value}));
  } else if (value->is_array()) {
    ids = reader.Ints("eos_token_id", *value);
  } else {
    reader.Fail("eos_token_id", "must be a whole number or a list of them");
  }
}

void CheckFamily(FieldReader& reader, ModelConfig& config) {
  const std::string& type = config.model_type;
  if (type != "llama" && type != "qwen2" && type != "qwen3" && type != "msa") {
    reader.Fail("model_type", StrCat("is '", type, "'; known: llama, qwen2, qwen3, msa"));
  }
  config.qk_norm = type == "qwen3" || type == "msa";
  const bool bias = reader.Bool("attention_bias", false);
  config.qkv_bias = type == "qwen2" || bias;
  config.output_bias = type != "qwen2" && bias;
  config.mlp_bias = type == "llama" && reader.Bool("mlp_bias", false);
  if (reader.String("hidden_act", "silu") != "silu") reader.Fail("hidden_act", "must be silu");
  if (reader.Bool("use_sliding_window", false)) {
    reader.Fail("use_sliding_window", "must be false: sliding windows are not supported");
  }
}

void CheckHeads(FieldReader& reader, const ModelConfig& config) {
  if (config.num_kv_heads > 0 && config.num_q_heads % config.num_kv_heads != 0) {
    reader.Fail("num_key_value_heads", "must divide num_attention_heads");
  }
  if (config.head_dim % 2 != 0) reader.Fail("head_dim", "must be even");
}

// Each more than 0 and a float32, yet too small to divide by: a theta of 1e-45, a factor of 1e-40.
void CheckSpeeds(FieldReader& reader, const ModelConfig& config) {
  for (const float speed : config.InverseFrequencies()) {
    if (!std::isfinite(speed)) {
      return reader.Fail("rope_theta", "and its scaling give an angular speed that is not finite");
    }
  }
}

}  // namespace

absl::StatusOr<RetrievalMode> ParseRetrievalMode(std::string_view name) {
  if (name == "generative") return RetrievalMode::kGenerative;
  if (name == "router") return RetrievalMode::kRouter;
  return absl::InvalidArgumentError(
      StrCat("unknown retrieval mode '", name, "': use generative or router"));
}

std::string_view RetrievalModeName(RetrievalMode mode) {
  return mode == RetrievalMode::kGenerative ? "generative" : "router";
}

RoutingShape ModelConfig::Routing() const {
  RoutingShape shape;
  shape.num_q_heads = num_q_heads;
  shape.num_kv_heads = num_kv_heads;
  shape.head_dim = head_dim;
  shape.head = memory.head_reduce;
  shape.query = memory.query_reduce;
  shape.chunk = memory.chunk_reduce;
  const bool unscaled = memory.cosine && memory.decoupled_router;
  shape.scale = unscaled ? 1.0f : 1.0f / std::sqrt(static_cast<float>(head_dim));
  return shape;
}

std::vector<float> ModelConfig::InverseFrequencies() const {
  std::vector<float> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    // float32 throughout, as transformers computes them: the golden vectors see the difference.
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    float frequency = 1.0f / std::pow(rope.theta, exponent);
    if (rope.scaling == RopeConfig::Scaling::kLinear) frequency /= rope.factor;
    if (rope.scaling == RopeConfig::Scaling::kLlama3) {
      const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
      const float low = rope.original_max_positions / rope.low_freq_factor;
      const float high = rope.original_max_positions / rope.high_freq_factor;
      const float smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) /
                           (rope.high_freq_factor - rope.low_freq_factor);
      const float scaled = frequency / rope.factor;
      if (wavelength > low) {
        frequency = scaled;
      } else if (wavelength >= high) {
        frequency = (1 - smooth) * scaled + smooth * frequency;
      }
    }
    frequencies[i] = frequency;
  }
  return frequencies;
}

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text) {
  const json root = json::parse(json_text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    return absl::InvalidArgumentError("config.json is not a JSON object: is the file complete?");
  }
  absl::Status error;
  FieldReader reader(root, error);
  ModelConfig config;
  config.model_type = reader.String("model_type", "");
  CheckFamily(reader, config);
  config.num_layers = reader.Int("num_hidden_layers", 1, kMaxLayers);
  config.hidden_size = reader.Int("hidden_size", 1, kMaxWidth);
  config.intermediate_size = reader.Int("intermediate_size", 1, kMaxWidth);
  config.num_q_heads = reader.Int("num_attention_heads", 1, kMaxWidth);
  config.num_kv_heads = reader.Int("num_key_value_heads", 1, kMaxWidth, config.num_q_heads);
  config.vocab_size = reader.Int("vocab_size", 1, kMaxVocabulary);
  config.max_positions = reader.Int("max_position_embeddings", 1, kMaxPositions, 2048);
  MSA_RETURN_IF_ERROR(error);
  config.head_dim =
      reader.Int("head_dim", 2, kMaxWidth, std::max(2, config.hidden_size / config.num_q_heads));
  CheckHeads(reader, config);
  config.rms_norm_eps = reader.Positive("rms_norm_eps", 1e-6);
  config.tied_embeddings = reader.Bool("tie_word_embeddings", false);
  config.rope = ReadRope(reader, error);
  CheckSpeeds(reader, config);
  ReadEndTokens(reader, config.eos_token_ids);
  if (const json* memory = reader.Find("msa_config"); memory != nullptr) {
    MSA_RETURN_IF_ERROR(error);
    MSA_RETURN_IF_ERROR(ApplyMemoryConfig(*memory, config));
  } else if (config.model_type == "msa") {
    reader.Fail("msa_config", "is missing, which model_type msa needs");
  } else {
    config.memory.router_layers = UpperHalf(config.num_layers);
    config.memory.routing_chunk_tokens = config.memory.content_chunk_tokens = 16;
    config.memory.cosine = true;
    config.memory.retrieval_mode = RetrievalMode::kRouter;
  }
  MSA_RETURN_IF_ERROR(error);
  return config;
}

absl::Status ApplyMemoryConfig(const json& msa_config, ModelConfig& config) {
  if (!msa_config.is_object()) return FieldError("msa_config", "must be an object");
  absl::Status error;
  FieldReader reader(msa_config, error);
  MemoryConfig memory = ReadMemoryConfig(reader, config.num_layers);
  MSA_RETURN_IF_ERROR(error);
  config.memory = std::move(memory);
  config.has_memory_config = true;
  return absl::OkStatus();
}

}  // namespace msa::compute_node

#include "compute_node/model/synthetic_model.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "common/dtype.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::compute_node {
namespace {

ModelConfig Msa4b() {
  ModelConfig c;
  c.model_type = "msa";
  c.num_layers = 36;
  c.hidden_size = 2560;
  c.intermediate_size = 9728;
  c.num_q_heads = 32;
  c.num_kv_heads = 8;
  c.head_dim = 128;
  c.vocab_size = 151936;
  c.max_positions = 40960;
  c.rope.theta = 1e6;
  c.tied_embeddings = true;
  c.qk_norm = true;
  c.has_memory_config = true;
  for (int32_t layer = 18; layer < 36; ++layer) c.memory.router_layers.push_back(layer);
  c.memory.decoupled_router = true;
  c.memory.cosine = true;
  return c;
}

ModelConfig Tiny() {
  ModelConfig c = Msa4b();
  c.num_layers = 4;
  c.hidden_size = 64;
  c.intermediate_size = 128;
  c.num_q_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.max_positions = 4096;
  c.memory.router_layers = {2, 3};
  return c;
}

// Numbers to fill matrices with: uniform, with the variance that keeps a product's size.
std::vector<float> Numbers(int64_t count, int64_t in_features) {
  const float size = std::sqrt(3.0f / static_cast<float>(in_features));
  std::vector<float> numbers(count);
  uint32_t state = 1;
  for (float& number : numbers) {
    state = state * 1664525u + 1013904223u;
    number = size * (static_cast<float>(state >> 8) * 0x1p-23f - 1.0f);
  }
  return numbers;
}

class Filler {
 public:
  Filler(const ModelConfig& c, const kernels::Backend& backend, kernels::WeightFormat format)
      : c_(c),
        backend_(backend),
        format_(format),
        numbers_(Numbers(std::max<int64_t>(c.vocab_size, 2 * c.intermediate_size) * c.hidden_size,
                         c.hidden_size)) {}

  absl::StatusOr<std::unique_ptr<kernels::LinearWeights>> Matrix(
      int64_t out, int64_t in, kernels::WeightFormat format) const {
    return backend_.PackLinear(numbers_.data(), out, in, format);
  }

  absl::StatusOr<WeightVector> Ones(int64_t size) const {
    const std::vector<float> ones(size, 1.0f);
    return kernels::CopyToBackend(backend_, ones.data(), ones.size() * sizeof(float));
  }

  absl::StatusOr<LayerWeights> Layer(bool routed) const {
    const int64_t q_width = int64_t{c_.num_q_heads} * c_.head_dim;
    const int64_t kv_width = int64_t{c_.num_kv_heads} * c_.head_dim;
    LayerWeights w;
    MSA_ASSIGN_OR_RETURN(w.input_norm, Ones(c_.hidden_size));
    MSA_ASSIGN_OR_RETURN(w.post_attention_norm, Ones(c_.hidden_size));
    MSA_ASSIGN_OR_RETURN(w.q_norm, Ones(c_.head_dim));
    MSA_ASSIGN_OR_RETURN(w.k_norm, Ones(c_.head_dim));
    MSA_ASSIGN_OR_RETURN(w.qkv, Matrix(q_width + 2 * kv_width, c_.hidden_size, format_));
    MSA_ASSIGN_OR_RETURN(w.o, Matrix(c_.hidden_size, q_width, format_));
    MSA_ASSIGN_OR_RETURN(w.gate_up, Matrix(2 * c_.intermediate_size, c_.hidden_size, format_));
    MSA_ASSIGN_OR_RETURN(w.down, Matrix(c_.hidden_size, c_.intermediate_size, format_));
    if (!routed) return w;
    constexpr auto kRouterFormat = kernels::WeightFormat::kFloat32;
    MSA_ASSIGN_OR_RETURN(w.router_q, Matrix(q_width, c_.hidden_size, kRouterFormat));
    MSA_ASSIGN_OR_RETURN(w.router_k, Matrix(kv_width, c_.hidden_size, kRouterFormat));
    return w;
  }

  absl::StatusOr<kernels::Buffer> Embeddings() const {
    std::vector<BFloat16> rows(int64_t{c_.vocab_size} * c_.hidden_size);
    std::transform(numbers_.begin(), numbers_.begin() + rows.size(), rows.begin(), ToBFloat16);
    return kernels::CopyToBackend(backend_, rows.data(), rows.size() * sizeof(BFloat16));
  }

 private:
  const ModelConfig& c_;
  const kernels::Backend& backend_;
  kernels::WeightFormat format_;
  std::vector<float> numbers_;
};

}  // namespace

absl::StatusOr<ModelConfig> SyntheticConfig(std::string_view name) {
  if (name == "msa-4b") return Msa4b();
  if (name == "msa-tiny") return Tiny();
  return absl::InvalidArgumentError(
      StrCat("unknown synthetic model '", name, "': use msa-4b or msa-tiny"));
}

absl::StatusOr<ModelWeights> SyntheticWeights(const ModelConfig& config,
                                              const kernels::Backend& backend,
                                              kernels::WeightFormat format) {
  const Filler filler(config, backend, format);
  ModelWeights weights;
  weights.fingerprint = "00000000000000000000000000000000";
  weights.embedding_dtype = DType::kBFloat16;
  MSA_ASSIGN_OR_RETURN(weights.embeddings, filler.Embeddings());
  MSA_ASSIGN_OR_RETURN(weights.final_norm, filler.Ones(config.hidden_size));
  MSA_ASSIGN_OR_RETURN(weights.lm_head,
                       filler.Matrix(config.vocab_size, config.hidden_size, format));
  const auto& routed = config.memory.router_layers;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const bool routes = std::binary_search(routed.begin(), routed.end(), layer);
    MSA_ASSIGN_OR_RETURN(LayerWeights of_layer, filler.Layer(routes));
    weights.layers.push_back(std::move(of_layer));
  }
  return weights;
}

}  // namespace msa::compute_node

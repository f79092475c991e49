#include "compute_node/model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <numeric>
#include <set>
#include <system_error>
#include <utility>

#include "common/file.h"
#include "common/safetensors.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/model/checkpoint.h"
#include "compute_node/model/json_fields.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {
namespace {

using nlohmann::json;

bool AllFinite(absl::Span<const float> values) {
  // An exponent of all ones is infinity or NaN; or-ing comparisons vectorises, std::isfinite does
  // not.
  uint32_t bad = 0;
  for (float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    bad |= static_cast<uint32_t>((bits & 0x7F800000u) == 0x7F800000u);
  }
  return bad == 0;
}

// Reads tensors by name, the adapter's where it has one, merges LoRA, packs. One per load.
class Loader {
 public:
  Loader(const Checkpoint& base, const Checkpoint& adapter, const AdapterConfig& adapter_config,
         const ModelConfig& config, const kernels::Backend& backend, kernels::WeightFormat format)
      : base_(base),
        adapter_(adapter),
        adapter_config_(adapter_config),
        config_(config),
        backend_(backend),
        format_(format) {}

  // Null: neither file has it.
  const TensorView* Find(const std::string& name) const {
    const TensorView* view = adapter_.Find(name);
    return view != nullptr ? view : base_.Find(name);
  }

  absl::StatusOr<std::vector<float>> Read(const std::string& name,
                                          std::vector<int64_t> shape) const {
    const TensorView* view = Find(name);
    const bool of_adapter = adapter_.Find(name) != nullptr;
    const std::string tensor = StrCat(of_adapter ? "adapter tensor " : "tensor ", name);
    if (of_adapter) used_.insert(name);
    if (view == nullptr) {
      return absl::InvalidArgumentError(
          StrCat(tensor, " is missing: do config.json and weights belong together?"));
    }
    if (view->shape != shape) {
      return absl::InvalidArgumentError(StrCat(tensor, " has shape ", ShapeString(view->shape),
                                               ", config.json asks for ", ShapeString(shape)));
    }
    std::vector<float> values(view->num_elements());
    MSA_RETURN_IF_ERROR(CopyToFloat32(*view, absl::MakeSpan(values)));
    if (!AllFinite(values)) {
      return absl::InvalidArgumentError(
          StrCat(tensor, " holds NaN or infinity: the file is damaged"));
    }
    return values;
  }

  absl::StatusOr<WeightVector> Vector(const std::string& name, int64_t size) const {
    return Joined({{name, size}}, true);
  }
  // Vectors one after the other; null when not `present`.
  absl::StatusOr<WeightVector> Joined(const std::vector<std::pair<std::string, int64_t>>& names,
                                      bool present) const {
    if (!present) return WeightVector();
    std::vector<float> all;
    for (const auto& [name, size] : names) {
      MSA_ASSIGN_OR_RETURN(const std::vector<float> values, Read(name, {size}));
      all.insert(all.end(), values.begin(), values.end());
    }
    return kernels::CopyToBackend(backend_, all.data(), all.size() * sizeof(float));
  }

  // `module` without ".weight": the weight plus scale · B · A where the adapter has them.
  absl::StatusOr<std::vector<float>> Matrix(const std::string& module, int64_t out,
                                            int64_t in) const {
    MSA_ASSIGN_OR_RETURN(std::vector<float> w, Read(module + ".weight", {out, in}));
    const std::string lora = "base_model.model." + module;
    const TensorView* a_view = adapter_.Find(lora + ".lora_A.weight");
    if (a_view == nullptr) return w;
    if (a_view->shape.size() != 2) {
      return absl::InvalidArgumentError(StrCat("adapter tensor ", lora, ".lora_A is no matrix"));
    }
    const int64_t rank = a_view->shape[0];
    if (rank != adapter_config_.lora_rank) {
      return absl::InvalidArgumentError(StrCat(
          "adapter tensor ", lora, ".lora_A has rank ", rank, ", adapter_config.json says 'r' is ",
          adapter_config_.lora_rank, ": do the adapter's files belong together?"));
    }
    MSA_ASSIGN_OR_RETURN(auto a, Read(lora + ".lora_A.weight", {rank, in}));
    MSA_ASSIGN_OR_RETURN(auto b, Read(lora + ".lora_B.weight", {out, rank}));
    MergeLowRank(a, b, out, in, rank, w);
    return w;
  }

  // Several modules with the same input, one below the other.
  absl::StatusOr<std::unique_ptr<kernels::LinearWeights>> Stacked(
      const std::vector<std::pair<std::string, int64_t>>& modules, int64_t in) const {
    std::vector<float> rows;
    int64_t out = 0;
    for (const auto& [module, module_out] : modules) {
      MSA_ASSIGN_OR_RETURN(std::vector<float> w, Matrix(module, module_out, in));
      rows.insert(rows.end(), w.begin(), w.end());
      out += module_out;
    }
    return backend_.PackLinear(rows.data(), out, in, format_);
  }

  // Routers stay float32: selection hangs on small differences.
  absl::StatusOr<std::unique_ptr<kernels::LinearWeights>> Router(const std::string& name,
                                                                 int64_t out, int64_t in) const {
    MSA_ASSIGN_OR_RETURN(std::vector<float> w, Read(name, {out, in}));
    return backend_.PackLinear(w.data(), out, in, kernels::WeightFormat::kFloat32);
  }

  absl::StatusOr<LayerWeights> Layer(int layer) const;

  // After all has been read: what the adapter holds besides would be left out without a word.
  absl::Status CheckAllOfAdapterWasUsed() const {
    for (const auto& [name, view] : adapter_.tensors()) {
      if (used_.contains(name)) continue;
      return absl::InvalidArgumentError(
          StrCat("adapter tensor ", name,
                 " has no place in this model: was the adapter made for it, and with these router "
                 "layers?"));
    }
    return absl::OkStatus();
  }

 private:
  void MergeLowRank(const std::vector<float>& a, const std::vector<float>& b, int64_t out,
                    int64_t in, int64_t rank, std::vector<float>& w) const {
    std::vector<float> delta(in);
    for (int64_t i = 0; i < out; ++i) {
      std::fill(delta.begin(), delta.end(), 0.0f);
      for (int64_t r = 0; r < rank; ++r) {
        const float factor = b[i * rank + r];
        const float* row = a.data() + r * in;
        for (int64_t j = 0; j < in; ++j) delta[j] += factor * row[j];
      }
      for (int64_t j = 0; j < in; ++j) w[i * in + j] += adapter_config_.lora_scale * delta[j];
    }
  }

  const Checkpoint& base_;
  const Checkpoint& adapter_;
  const AdapterConfig& adapter_config_;
  mutable std::set<std::string, std::less<>> used_;  // names of the adapter's tensors
  const ModelConfig& config_;
  const kernels::Backend& backend_;
  kernels::WeightFormat format_;
};

absl::StatusOr<LayerWeights> Loader::Layer(int layer) const {
  const ModelConfig& c = config_;
  const std::string prefix = StrCat("model.layers.", layer, ".");
  const std::string attn = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const int64_t q_width = int64_t{c.num_q_heads} * c.head_dim;
  const int64_t kv_width = int64_t{c.num_kv_heads} * c.head_dim;
  LayerWeights w;
  MSA_ASSIGN_OR_RETURN(w.input_norm, Vector(prefix + "input_layernorm.weight", c.hidden_size));
  MSA_ASSIGN_OR_RETURN(w.post_attention_norm,
                       Vector(prefix + "post_attention_layernorm.weight", c.hidden_size));
  MSA_ASSIGN_OR_RETURN(w.q_norm, Joined({{attn + "q_norm.weight", c.head_dim}}, c.qk_norm));
  MSA_ASSIGN_OR_RETURN(w.k_norm, Joined({{attn + "k_norm.weight", c.head_dim}}, c.qk_norm));
  MSA_ASSIGN_OR_RETURN(w.qkv_bias, Joined({{attn + "q_proj.bias", q_width},
                                           {attn + "k_proj.bias", kv_width},
                                           {attn + "v_proj.bias", kv_width}},
                                          c.qkv_bias));
  MSA_ASSIGN_OR_RETURN(w.o_bias, Joined({{attn + "o_proj.bias", c.hidden_size}}, c.output_bias));
  MSA_ASSIGN_OR_RETURN(w.gate_up_bias, Joined({{mlp + "gate_proj.bias", c.intermediate_size},
                                               {mlp + "up_proj.bias", c.intermediate_size}},
                                              c.mlp_bias));
  MSA_ASSIGN_OR_RETURN(w.down_bias, Joined({{mlp + "down_proj.bias", c.hidden_size}}, c.mlp_bias));
  MSA_ASSIGN_OR_RETURN(w.qkv, Stacked({{attn + "q_proj", q_width},
                                       {attn + "k_proj", kv_width},
                                       {attn + "v_proj", kv_width}},
                                      c.hidden_size));
  MSA_ASSIGN_OR_RETURN(w.o, Stacked({{attn + "o_proj", c.hidden_size}}, q_width));
  MSA_ASSIGN_OR_RETURN(w.gate_up, Stacked({{mlp + "gate_proj", c.intermediate_size},
                                           {mlp + "up_proj", c.intermediate_size}},
                                          c.hidden_size));
  MSA_ASSIGN_OR_RETURN(w.down, Stacked({{mlp + "down_proj", c.hidden_size}}, c.intermediate_size));
  const auto& routed = c.memory.router_layers;
  if (c.memory.decoupled_router && std::binary_search(routed.begin(), routed.end(), layer)) {
    MSA_ASSIGN_OR_RETURN(w.router_q,
                         Router(attn + "router_q_proj.0.weight", q_width, c.hidden_size));
    MSA_ASSIGN_OR_RETURN(w.router_k,
                         Router(attn + "router_k_proj.0.weight", kv_width, c.hidden_size));
  }
  return w;
}

absl::StatusOr<std::unique_ptr<kernels::LinearWeights>> LoadHead(
    const Loader& loader, const ModelConfig& c, const kernels::Backend& backend,
    kernels::WeightFormat format, const std::vector<float>& embeddings) {
  // A file may carry its own head although the configuration says tied: transformers ties it then,
  // and so do we.
  if (c.tied_embeddings) {
    return backend.PackLinear(embeddings.data(), c.vocab_size, c.hidden_size, format);
  }
  MSA_ASSIGN_OR_RETURN(auto head, loader.Read("lm_head.weight", {c.vocab_size, c.hidden_size}));
  return backend.PackLinear(head.data(), c.vocab_size, c.hidden_size, format);
}

// What a fingerprint begins with: the files beside the weights.
absl::Status AddModelFiles(const std::string& dir, Fingerprint& fingerprint) {
  fingerprint.Add("msa-model-1|");
  for (const char* name : {"/config.json", "/tokenizer.json"}) {
    if (!std::filesystem::exists(dir + name)) continue;
    MSA_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(dir + name, kMaxModelJsonBytes));
    fingerprint.Add(bytes);
  }
  return absl::OkStatus();
}

// The layers in the order of their tensors' names, 0, 1, 10, 11, …, 2: that of the fingerprint.
std::vector<int> LayersByName(int num_layers) {
  std::vector<int> layers(num_layers);
  std::iota(layers.begin(), layers.end(), 0);
  std::sort(layers.begin(), layers.end(),
            [](int a, int b) { return std::to_string(a) < std::to_string(b); });
  return layers;
}

absl::Status LoadEmbeddingsAndHead(const Loader& loader, const ModelConfig& config,
                                   const kernels::Backend& backend, kernels::WeightFormat format,
                                   ModelWeights& weights) {
  const std::string name = "model.embed_tokens.weight";
  MSA_ASSIGN_OR_RETURN(auto embeddings, loader.Read(name, {config.vocab_size, config.hidden_size}));
  MSA_ASSIGN_OR_RETURN(weights.lm_head, LoadHead(loader, config, backend, format, embeddings));
  const TensorView* view = loader.Find(name);
  const bool as_stored = view->type == TensorType::kBF16;
  if (as_stored) weights.embedding_dtype = DType::kBFloat16;
  MSA_ASSIGN_OR_RETURN(
      weights.embeddings,
      as_stored
          ? kernels::CopyToBackend(backend, view->data.data(), view->data.size())
          : kernels::CopyToBackend(backend, embeddings.data(), embeddings.size() * sizeof(float)));
  return absl::OkStatus();
}

absl::Status OpenAdapter(const std::string& dir, Checkpoint& adapter) {
  for (const char* name : {"/adapter.safetensors", "/adapter_model.safetensors"}) {
    if (std::filesystem::exists(dir + name)) return adapter.AddFile(dir + name);
  }
  return absl::NotFoundError(StrCat("adapter folder ", dir, " has no adapter.safetensors"));
}

}  // namespace

absl::StatusOr<AdapterConfig> ReadAdapterConfig(const std::string& adapter_dir,
                                                ModelConfig& config) {
  AdapterConfig adapter{.dir = adapter_dir};
  const std::string path = adapter_dir + "/adapter_config.json";
  MSA_ASSIGN_OR_RETURN(adapter.json, ReadFile(path, kMaxModelJsonBytes));
  const json root = json::parse(adapter.json, nullptr, false);
  if (!root.is_object()) return absl::InvalidArgumentError(StrCat(path, " is not a JSON object"));
  const json& rank = Field(root, "r");
  if (!rank.is_number_integer() || rank < 0) {
    return absl::InvalidArgumentError(
        StrCat(path, ": field 'r' must be a whole number, LoRA's rank, or 0 where there is none"));
  }
  const json& alpha = Field(root, "lora_alpha");
  if (rank > 0 && (!alpha.is_number() || alpha.get<double>() > std::numeric_limits<float>::max() ||
                   alpha.get<float>() <= 0)) {
    return absl::InvalidArgumentError(
        StrCat(path, ": field 'lora_alpha' must be a positive number that float32 holds"));
  }
  for (const char* unsupported : {"use_rslora", "use_dora", "fan_in_fan_out"}) {
    const auto field = root.find(unsupported);
    if (field == root.end() || field->is_null() || *field == false) continue;
    return absl::InvalidArgumentError(StrCat(
        path, ": ", unsupported, *field == true ? " is not supported" : " must be true or false"));
  }
  for (const char* unsupported : {"rank_pattern", "alpha_pattern"}) {
    if (root.contains(unsupported) && !root[unsupported].empty()) {
      return absl::InvalidArgumentError(StrCat(path, ": ", unsupported, " is not supported"));
    }
  }
  if (root.contains("msa_config")) {
    if (auto status = ApplyMemoryConfig(root["msa_config"], config); !status.ok()) {
      return absl::InvalidArgumentError(StrCat(path, ": ", status.message()));
    }
  }
  adapter.lora_rank = rank.get<int64_t>();
  if (adapter.lora_rank > 0) adapter.lora_scale = alpha.get<float>() / rank.get<float>();
  return adapter;
}

absl::StatusOr<ModelWeights> LoadWeights(const WeightSource& source, const ModelConfig& config,
                                         const kernels::Backend& backend,
                                         kernels::WeightFormat format) {
  Checkpoint base, adapter;
  MSA_RETURN_IF_ERROR(source.weights_file.empty() ? base.AddFolder(source.model_dir)
                                                  : base.AddFile(source.weights_file));
  if (!source.adapter.dir.empty()) MSA_RETURN_IF_ERROR(OpenAdapter(source.adapter.dir, adapter));
  const Loader loader(base, adapter, source.adapter, config, backend, format);
  Fingerprint fingerprint;
  MSA_RETURN_IF_ERROR(AddModelFiles(source.model_dir, fingerprint));
  ModelWeights weights;
  fingerprint.AddThrough(base, "model.embed_tokens.");
  MSA_RETURN_IF_ERROR(LoadEmbeddingsAndHead(loader, config, backend, format, weights));
  weights.layers.resize(config.num_layers);
  for (const int layer : LayersByName(config.num_layers)) {
    fingerprint.AddThrough(base, StrCat("model.layers.", layer, "."));
    MSA_ASSIGN_OR_RETURN(weights.layers[layer], loader.Layer(layer));
  }
  fingerprint.AddRest(base);
  MSA_ASSIGN_OR_RETURN(weights.final_norm, loader.Vector("model.norm.weight", config.hidden_size));
  if (!adapter.empty()) {
    MSA_RETURN_IF_ERROR(loader.CheckAllOfAdapterWasUsed());
    fingerprint.Add(source.adapter.json);
    fingerprint.AddRest(adapter);
  }
  fingerprint.Add(source.fingerprint_extra);
  weights.fingerprint = fingerprint.Hex();
  return weights;
}

}  // namespace msa::compute_node

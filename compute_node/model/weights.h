// Weights of a Llama, Qwen2 or Qwen3 decoder with or without routers, read from Hugging Face files,
// adapters merged.
#ifndef MSA_COMPUTE_NODE_MODEL_WEIGHTS_H_
#define MSA_COMPUTE_NODE_MODEL_WEIGHTS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compute_node/model/config.h"
#include "kernels/backend.h"

namespace msa::compute_node {

// Floats in memory of the backend; null where a family has none.
using WeightVector = kernels::Buffer;

// Projections that read the same input are one matrix: rows of q, then k, then v; rows of gate,
// then up.
struct LayerWeights {
  WeightVector input_norm;           // [hidden]
  WeightVector post_attention_norm;  // [hidden]
  WeightVector q_norm, k_norm;       // [head_dim]; null without qk_norm
  WeightVector qkv_bias, o_bias, gate_up_bias, down_bias;
  std::unique_ptr<kernels::LinearWeights> qkv, o, gate_up, down;
  std::unique_ptr<kernels::LinearWeights> router_q,
      router_k;  // null but in decoupled router layers
};

struct ModelWeights {
  DType embedding_dtype = DType::kFloat32;  // kFloat32 or kBFloat16: as the file holds it
  kernels::Buffer embeddings;               // [vocab, hidden] of embedding_dtype
  std::vector<LayerWeights> layers;
  WeightVector final_norm;
  std::unique_ptr<kernels::LinearWeights> lm_head;
  std::string fingerprint;  // 32 hex digits
};

// An adapter folder's adapter_config.json, read once.
struct AdapterConfig {
  std::string dir = {};  // with adapter.safetensors or adapter_model.safetensors; empty: no adapter
  std::string json = {};  // the file's bytes, part of the fingerprint
  int64_t lora_rank = 0;  // r; 0: no LoRA
  float lora_scale = 0;   // lora_alpha / r, if there is any
};

// Reads it and applies its msa_config, which replaces the checkpoint's, to `config`.
absl::StatusOr<AdapterConfig> ReadAdapterConfig(const std::string& adapter_dir,
                                                ModelConfig& config);

struct WeightSource {
  // config.json, model.safetensors or model.safetensors.index.json, tokenizer.json
  std::string model_dir;
  std::string weights_file;       // instead of those in model_dir, when not empty
  AdapterConfig adapter;          // of ReadAdapterConfig, which `config` has seen
  std::string fingerprint_extra;  // bytes that change what is computed and are in none of the files
};

// Reads and merges: an adapter's tensor of a name that the checkpoint has takes that one's place
// (so an adapter of full weights replaces all of them), and LoRA is added to it. Every value must
// be finite: INVALID_ARGUMENT naming the tensor; so for a tensor that is missing, has the wrong
// shape or type, and for one of the adapter that has no place. NOT_FOUND for a missing file. A
// layer is hashed and packed while it is in memory, so that a model larger than memory is read from
// its disk once. Takes seconds for a model of 135 M parameters; memory: the packed weights and one
// layer in float32.
absl::StatusOr<ModelWeights> LoadWeights(const WeightSource& source, const ModelConfig& config,
                                         const kernels::Backend& backend,
                                         kernels::WeightFormat format);

// Of a tokenizer, a configuration or a shard index.
inline constexpr size_t kMaxModelJsonBytes = 256u << 20;

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_WEIGHTS_H_

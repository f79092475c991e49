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

struct WeightSource {
  std::string
      model_dir;  // config.json, model.safetensors or model.safetensors.index.json, tokenizer.json
  std::string weights_file;       // instead of those in model_dir, when not empty
  std::string adapter_dir;        // adapter_config.json, adapter.safetensors or
                                  // adapter_model.safetensors; empty: none
  std::string fingerprint_extra;  // bytes that change what is computed and are in none of the files
};

// Reads and merges. An adapter's msa_config replaces the checkpoint's (see config). Every value
// must be finite: INVALID_ARGUMENT naming the tensor; so for a tensor that is missing, has the
// wrong shape or type. NOT_FOUND for a missing file. Takes seconds for a model of 135 M parameters;
// memory: the packed weights and one layer in float32.
absl::StatusOr<ModelWeights> LoadWeights(const WeightSource& source, const ModelConfig& config,
                                         const kernels::Backend& backend,
                                         kernels::WeightFormat format);

// Reads adapter_config.json of an adapter folder: applies its msa_config and returns lora_alpha /
// r.
absl::StatusOr<float> ReadAdapterConfig(const std::string& adapter_dir, ModelConfig& config);

// Whole file as bytes; NOT_FOUND or PERMISSION_DENIED naming it; RESOURCE_EXHAUSTED past
// `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_WEIGHTS_H_

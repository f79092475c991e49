// What a checkpoint's config.json says, checked: the decoder's shape and how it uses memory
// (`msa_config`). Families: llama, qwen2, qwen3, and msa (the published engine's Qwen3 with
// routers).
#ifndef MSA_COMPUTE_NODE_MODEL_CONFIG_H_
#define MSA_COMPUTE_NODE_MODEL_CONFIG_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/routing.h"
#include "nlohmann/json_fwd.hpp"

namespace msa::compute_node {

enum class RetrievalMode { kGenerative, kRouter };

// Where the reader prompt of router mode has the question: after the texts, or before them too, so
// that a causal model reads them knowing what is asked.
enum class ReaderQuestion { kAfter, kTwice };

// "generative" or "router"; INVALID_ARGUMENT otherwise.
absl::StatusOr<RetrievalMode> ParseRetrievalMode(std::string_view name);
std::string_view RetrievalModeName(RetrievalMode mode);

// Memory Sparse Attention of a checkpoint. Defaults are the published engine's.
struct MemoryConfig {
  std::vector<int32_t> router_layers;  // ascending, not empty
  int32_t routing_chunk_tokens = 64;   // pooling_kernel_size
  int32_t content_chunk_tokens = 64;   // content_pooling_kernel_size, else the same
  int32_t top_k = 16;                  // doc_top_k
  bool decoupled_router = false;       // Q^R, K^R from their own projections
  bool cosine = false;                 // aux_loss_method == "INFONCE"
  Reduce head_reduce = Reduce::kMean;
  Reduce query_reduce = Reduce::kMax;
  Reduce chunk_reduce = Reduce::kMax;
  RetrievalMode retrieval_mode = RetrievalMode::kGenerative;
  bool final_question_causal = false;                       // final_question == "causal"
  int32_t reader_documents = 3;                             // router mode: texts taken a round
  ReaderQuestion reader_question = ReaderQuestion::kAfter;  // "after" or "twice"
  // Router mode: the tokens of a reader prompt all see each other; what is written after it is
  // causal as ever.
  bool reader_full_attention = false;  // reader_attention == "full"
  int32_t router_rounds = 1;           // router mode: round limit
  // Router mode: a later round adds only documents whose mean score is at least this; a round that
  // adds none is the last. Calibrated with the checkpoint; absent: any score.
  float round_min_score = -std::numeric_limits<float>::infinity();
  // Router mode: texts that one round took are read each by itself, too, and together only where
  // the model is by this much (logits) less inclined to refuse over them. Absent: together.
  std::optional<float> reader_apart_margin;
  std::string refusal;     // what the model says where the texts hold no answer; empty: nothing set
  float refusal_bias = 0;  // added to the logit of the refusal's first token where an answer begins
  // That logit is to beat all others together, their log-sum-exp, not the largest of them.
  bool refusal_against_all = false;  // refusal_against == "all"
  int32_t part_tokens = 512;         // longer documents are split
};

struct RopeConfig {
  float theta = 10000;
  enum class Scaling { kNone, kLinear, kLlama3 } scaling = Scaling::kNone;
  float factor = 1;
  float low_freq_factor = 1;
  float high_freq_factor = 4;
  float original_max_positions = 8192;
};

struct ModelConfig {
  std::string model_type;
  int32_t num_layers = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t vocab_size = 0;
  int32_t max_positions = 0;
  float rms_norm_eps = 1e-6f;
  RopeConfig rope;
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool output_bias = false;  // of o_proj
  bool mlp_bias = false;
  bool qk_norm = false;  // RMSNorm of each head of q and k
  std::vector<int32_t> eos_token_ids;
  bool has_memory_config = false;  // false: `memory` was made for a plain backbone
  MemoryConfig memory;

  // How this checkpoint scores; NUMERICS "normalised and scaled when".
  RoutingShape Routing() const;
  // One angular speed a pair of dimensions, [head_dim / 2].
  std::vector<float> InverseFrequencies() const;
};

// Reads config.json text. INVALID_ARGUMENT naming the field that is missing, of the wrong type or
// out of range, or the family, activation, scaling or reduction that is not supported.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text);

// Replaces config.memory by an adapter's `msa_config` object.
absl::Status ApplyMemoryConfig(const nlohmann::json& msa_config, ModelConfig& config);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_CONFIG_H_

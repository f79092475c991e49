// The decoder: runs batches of sequences through all layers, each attending to its own tokens and
// to whatever its AttentionContext holds for the layer (template prefix, documents' blocks).
// Encoding, prefill and decode are the same code.
#ifndef MSA_COMPUTE_NODE_MODEL_TRANSFORMER_H_
#define MSA_COMPUTE_NODE_MODEL_TRANSFORMER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "compute_node/model/config.h"
#include "compute_node/model/kv_cache.h"
#include "compute_node/model/weights.h"
#include "kernels/backend.h"

namespace msa::compute_node {

class Activations;

// K,V rows a sequence sees besides its own tokens, a list a layer.
struct AttentionContext {
  explicit AttentionContext(int num_layers) : layers(num_layers) {}
  std::vector<std::vector<kernels::KvView>> layers;
  std::vector<std::shared_ptr<const void>> owners;  // keep the rows alive
};

// New tokens of one sequence.
struct SequenceChunk {
  absl::Span<const int32_t> tokens;  // not empty, each within the vocabulary
  int32_t first_position = 0;        // the others follow one by one
  KvCache* cache = nullptr;  // earlier tokens; the new ones are appended. Null: there are none
  bool causal = true;        // false: the new tokens all see each other
  const AttentionContext* context = nullptr;  // null: own tokens only
};

// Tensors of all sequences' new tokens, row after row, in memory of the backend; valid during the
// call.
struct AttentionInputs {
  int64_t rows = 0;
  const float* normed = nullptr;  // [rows, hidden]: the layer's normalised input
  const float* q = nullptr;       // [rows, num_q_heads, head_dim], after norm and RoPE
  const float* k = nullptr;       // [rows, num_kv_heads, head_dim], after norm and RoPE
  const float* v = nullptr;       // [rows, num_kv_heads, head_dim]
};

// Watches a forward pass, and may fill the sequences' contexts before a layer attends. Called on
// Forward's thread.
class ForwardHook {
 public:
  virtual ~ForwardHook() = default;
  // May block. An error ends the pass with it.
  virtual absl::Status OnAttentionInputs(int layer, const AttentionInputs& inputs) {
    return absl::OkStatus();
  }
  // Whether OnLayerOutput is wanted. Else it is not called, and the last layer does only the work
  // that the last tokens need.
  virtual bool WatchesLayerOutputs() const { return false; }
  // hidden [rows, hidden], in memory of the backend: the residual stream after the layer.
  virtual void OnLayerOutput(int layer, const float* hidden) {}
  // A pass whose logits nobody wants ends after the attention inputs of this layer; -1: runs to the
  // end.
  virtual int LastNeededLayer() const { return -1; }
};

// Thread-safe: passes of several threads take turns on the processor, layer by layer.
class Transformer {
 public:
  ~Transformer();
  // `backend` must outlive it and be the one the weights were packed by.
  static absl::StatusOr<std::unique_ptr<Transformer>> Make(ModelConfig config, ModelWeights weights,
                                                           const kernels::Backend& backend);

  const ModelConfig& config() const { return config_; }
  const std::string& fingerprint() const { return weights_.fingerprint; }
  const kernels::Backend& backend() const { return backend_; }
  int64_t kv_width() const { return int64_t{config_.num_kv_heads} * config_.head_dim; }
  int64_t q_width() const { return int64_t{config_.num_q_heads} * config_.head_dim; }

  // Returns the last token's final hidden state (normalised, what the head reads) of each sequence,
  // [sequences, hidden]; empty when the hook ended the pass early. Errors: the hook's,
  // RESOURCE_EXHAUSTED when the backend's memory is full, and the backend's health.
  absl::StatusOr<std::vector<float>> Forward(absl::Span<const SequenceChunk> sequences,
                                             ForwardHook* hook) const;
  // hidden [rows, hidden] → [rows, vocab]. Errors: the backend's health, here and below.
  absl::StatusOr<std::vector<float>> Logits(absl::Span<const float> hidden) const;
  // The most likely token of each row, the lower id of equals; the logits stay with the backend.
  absl::StatusOr<std::vector<int32_t>> LikeliestTokens(absl::Span<const float> hidden) const;
  // One step of decode: feeds each sequence's one token after its cache, which is a cache of its
  // own, and returns the likeliest tokens to follow, and their logits [sequences, vocab] when asked
  // for. What Forward and LikeliestTokens give, but that a device starts it in one go; steps of
  // several threads take turns.
  absl::StatusOr<std::vector<int32_t>> NextTokens(absl::Span<const SequenceChunk> sequences,
                                                  std::vector<float>* logits) const;
  // Room for the K,V of one sequence's tokens.
  KvCache NewCache(int64_t capacity) const {
    return KvCache(backend_, config_.num_layers, kv_width(), capacity,
                   backend_.KvDType(config_.head_dim));
  }

  // Routing projections of rows of AttentionInputs, before any normalisation; without a decoupled
  // router these are q and k themselves. Floats [rows, q_width], in memory of the backend.
  absl::StatusOr<kernels::Buffer> RouterQueries(int layer, const AttentionInputs& inputs,
                                                absl::Span<const int32_t> rows) const;
  // The same, the means of the keys of each chunk (PoolPackedArgs): [chunks, kv_width]. A
  // projection of a mean is the mean of the projections, so only the means are projected.
  absl::StatusOr<kernels::Buffer> RouterKeys(int layer, const AttentionInputs& inputs,
                                             absl::Span<const int32_t> chunk_begin) const;

 private:
  class Steps;

  Transformer(ModelConfig config, ModelWeights weights, const kernels::Backend& backend);

  void Embed(absl::Span<const SequenceChunk> sequences, Activations& a) const;
  void ProjectQkv(int layer, bool keep_normed, Activations& a) const;
  kernels::SplitQkvArgs QkvOf(int layer, const int32_t* positions, const Activations& a) const;
  float AttentionScale() const;
  absl::Status Attend(int layer, absl::Span<const SequenceChunk> sequences, Activations& a) const;
  // Leaves the rows of each sequence's last token only, of the hidden state and what was attended.
  void KeepLastRows(absl::Span<const SequenceChunk> sequences, Activations& a) const;
  void AfterAttention(int layer, const float* attended, Activations& a) const;
  std::vector<float> LastHidden(absl::Span<const SequenceChunk> sequences, Activations& a) const;
  absl::StatusOr<std::vector<int32_t>> NextTokensByForward(
      absl::Span<const SequenceChunk> sequences, std::vector<float>* logits) const;

  ModelConfig config_;
  ModelWeights weights_;
  const kernels::Backend& backend_;
  kernels::Buffer inverse_frequencies_;
  // One layer's work at a time: the kernels use every core by themselves, two at once would only
  // fight.
  mutable absl::Mutex compute_;
  mutable absl::Mutex stepping_;
  mutable std::unique_ptr<Steps> steps_ ABSL_GUARDED_BY(stepping_);  // with the first step
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_TRANSFORMER_H_

#include "compute_node/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/status_macros.h"

namespace msa::compute_node {
namespace {

// Uninitialised floats: a prefill's buffers are megabytes, and every element is written before it
// is read.
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(new float[size]) {}
  float* get() { return data_.get(); }

 private:
  std::unique_ptr<float[]> data_;
};

// Copies columns [begin, begin + width) of x [rows, stride] to out [rows, width].
void CopyColumns(const float* x, int64_t rows, int64_t stride, int64_t begin, int64_t width,
                 float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(out + r * width, x + r * stride + begin, width * sizeof(float));
  }
}

const float* BiasOrNull(const std::vector<float>& bias) {
  return bias.empty() ? nullptr : bias.data();
}

}  // namespace

struct Transformer::Activations {
  Activations(const ModelConfig& c, int64_t num_rows, int64_t q_width, int64_t kv_width)
      : rows(num_rows),
        hidden(rows * c.hidden_size),
        normed(rows * c.hidden_size),
        qkv(rows * (q_width + 2 * kv_width)),
        q(rows * q_width),
        k(rows * kv_width),
        v(rows * kv_width),
        attended(rows * q_width),
        projected(rows * c.hidden_size),
        gate_up(rows * 2 * c.intermediate_size),
        gated(rows * c.intermediate_size) {}

  int64_t rows;
  std::vector<int32_t> positions;
  Buffer hidden, normed, qkv, q, k, v, attended, projected, gate_up, gated;
};

Transformer::Transformer(ModelConfig config, ModelWeights weights, const kernels::Backend& backend)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      backend_(backend),
      inverse_frequencies_(config_.InverseFrequencies()) {}

void Transformer::Embed(absl::Span<const SequenceChunk> sequences, Activations& a) const {
  const int64_t width = config_.hidden_size;
  const size_t row_bytes = width * DTypeBytes(weights_.embedding_dtype);
  float* out = a.hidden.get();
  for (const SequenceChunk& sequence : sequences) {
    for (size_t i = 0; i < sequence.tokens.size(); ++i, out += width) {
      const uint8_t* row = weights_.embeddings.data() + sequence.tokens[i] * row_bytes;
      backend_.Dequantize(row, nullptr, 1, width, weights_.embedding_dtype, out);
      a.positions.push_back(sequence.first_position + static_cast<int32_t>(i));
    }
  }
}

void Transformer::ProjectQkv(int layer, Activations& a) const {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t stride = q_width() + 2 * kv_width();
  backend_.RmsNorm(a.hidden.get(), w.input_norm.data(), a.rows, config_.hidden_size,
                   config_.rms_norm_eps, a.normed.get());
  backend_.Linear(*w.qkv, a.normed.get(), a.rows, BiasOrNull(w.qkv_bias), a.qkv.get());
  CopyColumns(a.qkv.get(), a.rows, stride, 0, q_width(), a.q.get());
  CopyColumns(a.qkv.get(), a.rows, stride, q_width(), kv_width(), a.k.get());
  CopyColumns(a.qkv.get(), a.rows, stride, q_width() + kv_width(), kv_width(), a.v.get());
  if (config_.qk_norm) {
    backend_.RmsNorm(a.q.get(), w.q_norm.data(), a.rows * config_.num_q_heads, config_.head_dim,
                     config_.rms_norm_eps, a.q.get());
    backend_.RmsNorm(a.k.get(), w.k_norm.data(), a.rows * config_.num_kv_heads, config_.head_dim,
                     config_.rms_norm_eps, a.k.get());
  }
  backend_.Rope(a.q.get(), a.positions, config_.num_q_heads, config_.head_dim,
                inverse_frequencies_.data(), 1.0f);
  backend_.Rope(a.k.get(), a.positions, config_.num_kv_heads, config_.head_dim,
                inverse_frequencies_.data(), 1.0f);
}

void Transformer::Attend(int layer, absl::Span<const SequenceChunk> sequences,
                         Activations& a) const {
  const LayerWeights& w = weights_.layers[layer];
  std::vector<kernels::AttentionArgs> args(sequences.size());
  int64_t row = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const SequenceChunk& sequence = sequences[s];
    const auto num_tokens = static_cast<int64_t>(sequence.tokens.size());
    const float* k = a.k.get() + row * kv_width();
    const float* v = a.v.get() + row * kv_width();
    kernels::AttentionArgs& arg = args[s];
    if (sequence.cache != nullptr) {
      sequence.cache->Append(layer, k, v, num_tokens);
      arg.local = sequence.cache->View(layer);
    } else {
      arg.local.k = k;
      arg.local.v = v;
      arg.local.num_tokens = num_tokens;
    }
    arg.q = a.q.get() + row * q_width();
    arg.out = a.attended.get() + row * q_width();
    arg.num_queries = static_cast<int>(num_tokens);
    arg.num_q_heads = config_.num_q_heads;
    arg.num_kv_heads = config_.num_kv_heads;
    arg.head_dim = config_.head_dim;
    arg.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    if (sequence.context != nullptr) arg.blocks = sequence.context->layers[layer];
    arg.first_visible = arg.local.num_tokens - num_tokens;
    arg.causal = sequence.causal;
    row += num_tokens;
  }
  backend_.Attend(args);
  backend_.Linear(*w.o, a.attended.get(), a.rows, BiasOrNull(w.o_bias), a.projected.get());
  backend_.Add(a.hidden.get(), a.projected.get(), a.rows * config_.hidden_size);
}

void Transformer::Mlp(int layer, Activations& a) const {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t width = config_.intermediate_size;
  backend_.RmsNorm(a.hidden.get(), w.post_attention_norm.data(), a.rows, config_.hidden_size,
                   config_.rms_norm_eps, a.normed.get());
  backend_.Linear(*w.gate_up, a.normed.get(), a.rows, BiasOrNull(w.gate_up_bias), a.gate_up.get());
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* gate = a.gate_up.get() + r * 2 * width;
    backend_.SiluMul(gate, gate + width, width, a.gated.get() + r * width);
  }
  backend_.Linear(*w.down, a.gated.get(), a.rows, BiasOrNull(w.down_bias), a.projected.get());
  backend_.Add(a.hidden.get(), a.projected.get(), a.rows * config_.hidden_size);
}

absl::StatusOr<std::vector<float>> Transformer::Forward(absl::Span<const SequenceChunk> sequences,
                                                        ForwardHook* hook) const {
  int64_t rows = 0;
  for (const SequenceChunk& sequence : sequences) rows += sequence.tokens.size();
  Activations a(config_, rows, q_width(), kv_width());
  Embed(sequences, a);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    {
      absl::MutexLock lock(&compute_);
      ProjectQkv(layer, a);
    }
    if (hook != nullptr) {
      const AttentionInputs inputs{rows, a.normed.get(), a.q.get(), a.k.get(), a.v.get()};
      MSA_RETURN_IF_ERROR(hook->OnAttentionInputs(layer, inputs));
      if (hook->LastNeededLayer() == layer) return std::vector<float>();
    }
    {
      absl::MutexLock lock(&compute_);
      Attend(layer, sequences, a);
      Mlp(layer, a);
    }
    if (hook != nullptr) hook->OnLayerOutput(layer, a.hidden.get());
  }
  std::vector<float> last(sequences.size() * config_.hidden_size);
  int64_t row = -1;
  for (size_t s = 0; s < sequences.size(); ++s) {
    row += static_cast<int64_t>(sequences[s].tokens.size());
    backend_.RmsNorm(a.hidden.get() + row * config_.hidden_size, weights_.final_norm.data(), 1,
                     config_.hidden_size, config_.rms_norm_eps,
                     last.data() + s * config_.hidden_size);
  }
  return last;
}

std::vector<float> Transformer::Logits(absl::Span<const float> hidden) const {
  const int64_t rows = static_cast<int64_t>(hidden.size()) / config_.hidden_size;
  std::vector<float> logits(rows * config_.vocab_size);
  absl::MutexLock lock(&compute_);
  backend_.Linear(*weights_.lm_head, hidden.data(), rows, nullptr, logits.data());
  return logits;
}

void Transformer::RouterQueries(int layer, const AttentionInputs& inputs,
                                absl::Span<const int32_t> rows, std::vector<float>& out) const {
  const LayerWeights& w = weights_.layers[layer];
  const bool decoupled = w.router_q != nullptr;
  const int64_t width = decoupled ? config_.hidden_size : q_width();
  const float* from = decoupled ? inputs.normed : inputs.q;
  std::vector<float> picked(rows.size() * width);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(picked.data() + i * width, from + rows[i] * width, width * sizeof(float));
  }
  if (!decoupled) {
    out = std::move(picked);
    return;
  }
  out.resize(rows.size() * q_width());
  absl::MutexLock lock(&compute_);
  backend_.Linear(*w.router_q, picked.data(), static_cast<int64_t>(rows.size()), nullptr,
                  out.data());
}

void Transformer::RouterKeys(int layer, const AttentionInputs& inputs,
                             std::vector<float>& out) const {
  const LayerWeights& w = weights_.layers[layer];
  if (w.router_k == nullptr) {
    out.assign(inputs.k, inputs.k + inputs.rows * kv_width());
    return;
  }
  out.resize(inputs.rows * kv_width());
  absl::MutexLock lock(&compute_);
  backend_.Linear(*w.router_k, inputs.normed, inputs.rows, nullptr, out.data());
}

}  // namespace msa::compute_node

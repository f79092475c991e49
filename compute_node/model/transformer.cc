#include "compute_node/model/transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/status_macros.h"
#include "compute_node/model/activations.h"
#include "compute_node/model/transformer_steps.h"

namespace msa::compute_node {
namespace {

// Rows of contexts that a backend is given at once, but of one sequence: it may need room for a
// copy of all (4 KB a row of 8 heads of 128), and a device without it has failed for good.
constexpr int64_t kMaxContextRows = 1 << 15;

// How many sequences from the first on have no more.
size_t NumAtOnce(absl::Span<const kernels::AttentionArgs> sequences) {
  int64_t rows = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (const kernels::KvView& block : sequences[s].blocks) rows += block.num_tokens;
    if (s > 0 && rows > kMaxContextRows) return s;
  }
  return sequences.size();
}

}  // namespace

Transformer::Transformer(ModelConfig config, ModelWeights weights, const kernels::Backend& backend)
    : config_(std::move(config)), weights_(std::move(weights)), backend_(backend) {}

Transformer::~Transformer() = default;

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Make(ModelConfig config,
                                                               ModelWeights weights,
                                                               const kernels::Backend& backend) {
  const std::vector<float> frequencies = config.InverseFrequencies();
  std::unique_ptr<Transformer> transformer(
      new Transformer(std::move(config), std::move(weights), backend));
  MSA_ASSIGN_OR_RETURN(
      transformer->inverse_frequencies_,
      kernels::CopyToBackend(backend, frequencies.data(), frequencies.size() * sizeof(float)));
  return transformer;
}

void Transformer::Embed(absl::Span<const SequenceChunk> sequences, Activations& a) const {
  std::vector<int32_t> ids, positions;
  for (const SequenceChunk& sequence : sequences) {
    for (size_t i = 0; i < sequence.tokens.size(); ++i) {
      positions.push_back(sequence.first_position + static_cast<int32_t>(i));
    }
    ids.insert(ids.end(), sequence.tokens.begin(), sequence.tokens.end());
  }
  backend_.Copy(a.positions, positions.data(), positions.size() * sizeof(int32_t));
  backend_.Embed(weights_.embeddings.data(), weights_.embedding_dtype, config_.hidden_size, ids,
                 a.hidden);
}

void Transformer::ProjectQkv(int layer, bool keep_normed, Activations& a) const {
  const LayerWeights& w = weights_.layers[layer];
  kernels::LinearArgs args;
  args.x = a.hidden;
  args.rows = a.rows;
  args.norm = w.input_norm.as<float>();
  args.eps = config_.rms_norm_eps;
  args.normed = a.normed;
  args.keep_normed = keep_normed;
  args.bias = w.qkv_bias.as<float>();
  args.y = a.qkv;
  backend_.FusedLinear(*w.qkv, args);
}

kernels::SplitQkvArgs Transformer::QkvOf(int layer, const int32_t* positions,
                                         const Activations& a) const {
  const LayerWeights& w = weights_.layers[layer];
  kernels::SplitQkvArgs args;
  args.qkv = a.qkv;
  args.rows = a.rows;
  args.num_q_heads = config_.num_q_heads;
  args.num_kv_heads = config_.num_kv_heads;
  args.head_dim = config_.head_dim;
  args.q_norm = w.q_norm.as<float>();
  args.k_norm = w.k_norm.as<float>();
  args.eps = config_.rms_norm_eps;
  args.positions = {positions, static_cast<size_t>(a.rows)};
  args.inv_freq = inverse_frequencies_.as<float>();
  args.q = a.q;
  args.k = a.k;
  args.v = a.v;
  return args;
}

float Transformer::AttentionScale() const {
  return 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
}

absl::Status Transformer::Attend(int layer, absl::Span<const SequenceChunk> sequences,
                                 Activations& a) const {
  std::vector<kernels::AttentionArgs> args(sequences.size());
  std::vector<kernels::AppendArgs> appends;
  int64_t row = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const SequenceChunk& sequence = sequences[s];
    const auto num_tokens = static_cast<int64_t>(sequence.tokens.size());
    const float* k = a.k + row * kv_width();
    const float* v = a.v + row * kv_width();
    kernels::AttentionArgs& arg = args[s];
    if (sequence.cache != nullptr) {
      MSA_ASSIGN_OR_RETURN(const KvCache::Slots slots, sequence.cache->Append(layer, num_tokens));
      appends.push_back({slots.k, slots.v, row, num_tokens, sequence.cache->dtype()});
      arg.local = sequence.cache->View(layer);
    } else {
      arg.local.k = k;
      arg.local.v = v;
      arg.local.num_tokens = num_tokens;
    }
    arg.q = a.q + row * q_width();
    arg.out = a.attended + row * q_width();
    arg.num_queries = static_cast<int>(num_tokens);
    arg.num_q_heads = config_.num_q_heads;
    arg.num_kv_heads = config_.num_kv_heads;
    arg.head_dim = config_.head_dim;
    arg.scale = AttentionScale();
    if (sequence.context != nullptr) arg.blocks = sequence.context->layers[layer];
    arg.first_visible = arg.local.num_tokens - num_tokens;
    arg.causal = sequence.causal;
    row += num_tokens;
  }
  backend_.AppendRows(a.k, a.v, kv_width(), appends);
  for (absl::Span<const kernels::AttentionArgs> left = args; !left.empty();) {
    const size_t count = NumAtOnce(left);
    backend_.Attend(left.first(count));
    left.remove_prefix(count);
  }
  return absl::OkStatus();
}

void Transformer::AfterAttention(int layer, const float* attended, Activations& a) const {
  const LayerWeights& w = weights_.layers[layer];
  kernels::LinearArgs out;
  out.x = attended;
  out.rows = a.rows;
  out.bias = w.o_bias.as<float>();
  out.then = kernels::LinearThen::kAdd;
  out.y = a.hidden;
  out.product = a.product;
  backend_.FusedLinear(*w.o, out);

  kernels::LinearArgs gate_up;
  gate_up.x = a.hidden;
  gate_up.rows = a.rows;
  gate_up.norm = w.post_attention_norm.as<float>();
  gate_up.eps = config_.rms_norm_eps;
  gate_up.normed = a.normed;
  gate_up.bias = w.gate_up_bias.as<float>();
  gate_up.then = kernels::LinearThen::kSiluMul;
  gate_up.y = a.gated;
  gate_up.y_dtype = w.down->rounds_activations() ? DType::kBFloat16 : DType::kFloat32;
  gate_up.product = a.product;
  backend_.FusedLinear(*w.gate_up, gate_up);

  kernels::LinearArgs down;
  down.x = a.gated;
  down.x_dtype = gate_up.y_dtype;
  down.rows = a.rows;
  down.bias = w.down_bias.as<float>();
  down.then = kernels::LinearThen::kAdd;
  down.y = a.hidden;
  down.product = a.product;
  backend_.FusedLinear(*w.down, down);
}

void Transformer::KeepLastRows(absl::Span<const SequenceChunk> sequences, Activations& a) const {
  const auto count = static_cast<int64_t>(sequences.size());
  if (a.rows == count) return;
  std::vector<int32_t> last;
  int32_t row = -1;
  for (const SequenceChunk& sequence : sequences) {
    row += static_cast<int32_t>(sequence.tokens.size());
    last.push_back(row);
  }
  backend_.GatherRows(a.hidden, config_.hidden_size, last, a.normed);
  std::swap(a.hidden, a.normed);
  backend_.GatherRows(a.attended, q_width(), last, a.q);
  std::swap(a.attended, a.q);
  a.rows = count;
}

std::vector<float> Transformer::LastHidden(absl::Span<const SequenceChunk> sequences,
                                           Activations& a) const {
  KeepLastRows(sequences, a);
  backend_.RmsNorm(a.hidden, weights_.final_norm.as<float>(), a.rows, config_.hidden_size,
                   config_.rms_norm_eps, a.normed);
  std::vector<float> last(a.rows * config_.hidden_size);
  backend_.Copy(last.data(), a.normed, last.size() * sizeof(float));
  return last;
}

absl::StatusOr<std::vector<float>> Transformer::Forward(absl::Span<const SequenceChunk> sequences,
                                                        ForwardHook* hook) const {
  int64_t rows = 0;
  for (const SequenceChunk& sequence : sequences) rows += sequence.tokens.size();
  MSA_ASSIGN_OR_RETURN(Activations a, Activations::Make(backend_, config_, rows));
  const bool watched = hook != nullptr && hook->WatchesLayerOutputs();
  Embed(sequences, a);
  for (int layer = 0; layer < config_.num_layers; ++layer) {
    {
      absl::MutexLock lock(&compute_);
      ProjectQkv(layer, /*keep_normed=*/hook != nullptr, a);
      backend_.SplitQkv(QkvOf(layer, a.positions, a));
    }
    if (hook != nullptr) {
      const AttentionInputs inputs{rows, a.normed, a.q, a.k, a.v};
      MSA_RETURN_IF_ERROR(hook->OnAttentionInputs(layer, inputs));
      if (hook->LastNeededLayer() == layer) {
        MSA_RETURN_IF_ERROR(backend_.Health());
        return std::vector<float>();
      }
    }
    {
      absl::MutexLock lock(&compute_);
      MSA_RETURN_IF_ERROR(Attend(layer, sequences, a));
      // Nobody reads the other rows after the last attention.
      if (layer + 1 == config_.num_layers && !watched) KeepLastRows(sequences, a);
      AfterAttention(layer, a.attended, a);
    }
    if (watched) hook->OnLayerOutput(layer, a.hidden);
  }
  std::vector<float> last = LastHidden(sequences, a);
  MSA_RETURN_IF_ERROR(backend_.Health());
  return last;
}

absl::StatusOr<std::vector<float>> Transformer::Logits(absl::Span<const float> hidden) const {
  const int64_t rows = static_cast<int64_t>(hidden.size()) / config_.hidden_size;
  std::vector<float> logits(rows * config_.vocab_size);
  {
    absl::MutexLock lock(&compute_);
    backend_.Linear(*weights_.lm_head, hidden.data(), rows, nullptr, logits.data());
  }
  MSA_RETURN_IF_ERROR(backend_.Health());
  return logits;
}

absl::StatusOr<std::vector<int32_t>> Transformer::LikeliestTokens(
    absl::Span<const float> hidden) const {
  const int64_t rows = static_cast<int64_t>(hidden.size()) / config_.hidden_size;
  MSA_ASSIGN_OR_RETURN(const kernels::Buffer logits,
                       backend_.Allocate(rows * config_.vocab_size * sizeof(float)));
  std::vector<int32_t> tokens(rows);
  {
    absl::MutexLock lock(&compute_);
    backend_.Linear(*weights_.lm_head, hidden.data(), rows, nullptr, logits.as<float>());
    backend_.ArgMax(logits.as<float>(), rows, config_.vocab_size, tokens.data());
  }
  MSA_RETURN_IF_ERROR(backend_.Health());
  return tokens;
}

absl::StatusOr<kernels::Buffer> Transformer::RouterQueries(int layer, const AttentionInputs& inputs,
                                                           absl::Span<const int32_t> rows) const {
  const LayerWeights& w = weights_.layers[layer];
  const bool decoupled = w.router_q != nullptr;
  const int64_t width = decoupled ? config_.hidden_size : q_width();
  MSA_ASSIGN_OR_RETURN(kernels::Buffer picked,
                       backend_.Allocate(rows.size() * width * sizeof(float)));
  backend_.GatherRows(decoupled ? inputs.normed : inputs.q, width, rows, picked.as<float>());
  if (!decoupled) return picked;
  MSA_ASSIGN_OR_RETURN(kernels::Buffer queries,
                       backend_.Allocate(rows.size() * q_width() * sizeof(float)));
  absl::MutexLock lock(&compute_);
  backend_.Linear(*w.router_q, picked.as<float>(), static_cast<int64_t>(rows.size()), nullptr,
                  queries.as<float>());
  return queries;
}

absl::StatusOr<kernels::Buffer> Transformer::RouterKeys(
    int layer, const AttentionInputs& inputs, absl::Span<const int32_t> chunk_begin) const {
  const LayerWeights& w = weights_.layers[layer];
  const bool decoupled = w.router_k != nullptr;
  const auto chunks = static_cast<int64_t>(chunk_begin.size()) - 1;
  kernels::PoolPackedArgs pool;
  pool.x = decoupled ? inputs.normed : inputs.k;
  pool.chunk_begin = chunk_begin;
  pool.num_heads = 1;
  pool.head_dim = static_cast<int>(decoupled ? config_.hidden_size : kv_width());
  MSA_ASSIGN_OR_RETURN(kernels::Buffer means,
                       backend_.Allocate(chunks * pool.head_dim * sizeof(float)));
  pool.out = means.data();
  backend_.PoolPacked(pool);
  if (!decoupled) return means;
  MSA_ASSIGN_OR_RETURN(kernels::Buffer keys,
                       backend_.Allocate(chunks * kv_width() * sizeof(float)));
  absl::MutexLock lock(&compute_);
  backend_.Linear(*w.router_k, means.as<float>(), chunks, nullptr, keys.as<float>());
  return keys;
}

}  // namespace msa::compute_node

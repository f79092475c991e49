#include "compute_node/model/transformer_steps.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "common/check.h"
#include "common/status_macros.h"

namespace msa::compute_node {

absl::StatusOr<std::unique_ptr<Transformer::Steps>> Transformer::Steps::Make(
    const Transformer& transformer, int64_t max_sequences) {
  const ModelConfig& config = transformer.config_;
  const kernels::Backend& backend = transformer.backend_;
  MSA_ASSIGN_OR_RETURN(Activations activations, Activations::Make(backend, config, max_sequences));
  std::unique_ptr<Steps> steps(new Steps(transformer, max_sequences, std::move(activations)));
  MSA_ASSIGN_OR_RETURN(steps->logits_,
                       backend.Allocate(max_sequences * config.vocab_size * sizeof(float)));
  const kernels::DecodeShape shape = {config.num_layers, config.num_q_heads, config.num_kv_heads,
                                      config.head_dim, transformer.AttentionScale()};
  MSA_ASSIGN_OR_RETURN(steps->steps_,
                       backend.MakeDecodeSteps(shape, static_cast<int>(max_sequences)));
  return steps;
}

absl::Status Transformer::Steps::Prepare(absl::Span<const SequenceChunk* const> sequences) {
  std::vector<Key> keys;
  for (const SequenceChunk* s : sequences) keys.emplace_back(s->cache->storage(), s->context);
  if (keys == prepared_) return absl::OkStatus();
  prepared_.clear();
  std::vector<std::vector<kernels::DecodeLayer>> layers(sequences.size());
  std::vector<kernels::DecodeSequence> prepared;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceChunk& s = *sequences[i];
    for (int layer = 0; layer < s.cache->num_layers(); ++layer) {
      kernels::DecodeLayer& own = layers[i].emplace_back();
      const KvCache::Slots rows = s.cache->Rows(layer);
      own.k = rows.k;
      own.v = rows.v;
      if (s.context != nullptr) own.blocks = s.context->layers[layer];
    }
    prepared.push_back({layers[i], s.cache->capacity()});
  }
  MSA_RETURN_IF_ERROR(steps_->SetSequences(prepared));
  prepared_ = std::move(keys);
  return absl::OkStatus();
}

absl::Status Transformer::Steps::Run(absl::Span<const SequenceChunk* const> sequences) {
  for (const SequenceChunk* s : sequences) MSA_RETURN_IF_ERROR(s->cache->Reserve(1));
  MSA_RETURN_IF_ERROR(Prepare(sequences));
  if (layout_ != steps_->layout()) recordings_.clear();
  layout_ = steps_->layout();
  std::vector<kernels::DecodeInput> inputs;
  for (const SequenceChunk* s : sequences) {
    inputs.push_back({s->tokens.front(), s->first_position, s->cache->num_tokens()});
  }
  steps_->SetInputs(inputs);
  const auto rows = static_cast<int64_t>(sequences.size());
  auto& recording = recordings_[rows];
  if (recording == nullptr) {
    recording = transformer_.backend_.Record([this, rows]() { Step(rows); });
  }
  recording->Run();
  return absl::OkStatus();
}

void Transformer::Steps::Step(int64_t rows) {
  const Transformer& t = transformer_;
  const ModelConfig& config = t.config_;
  Activations& a = activations_;
  a.rows = rows;
  steps_->Start(rows);
  t.backend_.Embed(t.weights_.embeddings.data(), t.weights_.embedding_dtype, config.hidden_size,
                   {steps_->ids(), static_cast<size_t>(rows)}, a.hidden);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    absl::MutexLock lock(&t.compute_);
    t.ProjectQkv(layer, /*keep_normed=*/false, a);
    const float* attended = steps_->Attend(layer, t.QkvOf(layer, steps_->positions(), a));
    t.AfterAttention(layer, attended, a);
  }
  kernels::LinearArgs head;
  head.x = a.hidden;
  head.rows = rows;
  head.norm = t.weights_.final_norm.as<float>();
  head.eps = config.rms_norm_eps;
  head.normed = a.normed;
  head.y = logits_.data();
  absl::MutexLock lock(&t.compute_);
  t.backend_.FusedLinear(*t.weights_.lm_head, head);
  steps_->Choose(logits_.as<float>(), rows, config.vocab_size);
}

absl::StatusOr<std::vector<int32_t>> Transformer::NextTokensByForward(
    absl::Span<const SequenceChunk> sequences, std::vector<float>* logits) const {
  MSA_ASSIGN_OR_RETURN(const std::vector<float> hidden, Forward(sequences, nullptr));
  if (logits != nullptr) {
    MSA_ASSIGN_OR_RETURN(*logits, Logits(hidden));
  }
  return LikeliestTokens(hidden);
}

absl::StatusOr<std::vector<int32_t>> Transformer::NextTokens(
    absl::Span<const SequenceChunk> sequences, std::vector<float>* logits) const {
  const auto rows = static_cast<int64_t>(sequences.size());
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return sequences[a].cache->storage() < sequences[b].cache->storage();
  });
  std::vector<const SequenceChunk*> sorted;
  for (int64_t i : order) {
    MSA_CHECK(sequences[i].tokens.size() == 1);
    sorted.push_back(&sequences[i]);
  }
  absl::MutexLock lock(&stepping_);
  absl::Status status;
  if (steps_ == nullptr || steps_->max_sequences() < rows) {
    steps_.reset();
    const auto room = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
    auto steps = Steps::Make(*this, room);
    status = steps.status();
    if (steps.ok()) steps_ = *std::move(steps);
  }
  if (status.ok()) status = steps_->Run(sorted);
  // What is kept from step to step takes memory that a step by itself does without.
  if (absl::IsFailedPrecondition(status) || absl::IsResourceExhausted(status)) {
    return NextTokensByForward(sequences, logits);
  }
  MSA_RETURN_IF_ERROR(status);
  const absl::Span<const int32_t> tokens = steps_->tokens(rows);
  MSA_RETURN_IF_ERROR(backend_.Health());
  std::vector<int32_t> likeliest(rows);
  if (logits != nullptr) logits->resize(rows * config_.vocab_size);
  for (int64_t i = 0; i < rows; ++i) {
    likeliest[order[i]] = tokens[i];
    sorted[i]->cache->Advance();
    if (logits == nullptr) continue;
    backend_.Copy(logits->data() + order[i] * config_.vocab_size,
                  steps_->logits() + i * config_.vocab_size, config_.vocab_size * sizeof(float));
  }
  MSA_RETURN_IF_ERROR(backend_.Health());  // of the copies
  return likeliest;
}

}  // namespace msa::compute_node

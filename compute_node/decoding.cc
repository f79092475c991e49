#include "compute_node/decoding.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/time/clock.h"
#include "common/status_macros.h"

namespace msa::compute_node {
namespace {

float LargestOther(absl::Span<const float> logits, int32_t token) {
  float other = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (static_cast<int32_t>(i) != token) other = std::max(other, logits[i]);
  }
  return other;
}

}  // namespace

int32_t ArgMax(absl::Span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

absl::StatusOr<std::optional<TokenBias>> RefusalStart(const MemoryConfig& config,
                                                      const Tokenizer& tokenizer) {
  if (config.refusal.empty()) return std::nullopt;
  MSA_ASSIGN_OR_RETURN(const auto ids, tokenizer.EncodeLiteral(config.refusal));
  if (ids.empty()) return std::nullopt;
  return TokenBias{ids.front(), config.refusal_bias, config.refusal_against_all};
}

absl::Status StillWanted(const rpc::CallContext& ctx) {
  if (ctx.Cancelled()) return absl::CancelledError("the client went away");
  if (absl::Now() > ctx.deadline) return absl::DeadlineExceededError("out of time while answering");
  return absl::OkStatus();
}

float Margin(absl::Span<const float> logits, int32_t token) {
  return logits[token] - LargestOther(logits, token);
}

float Excess(absl::Span<const float> logits, int32_t token) {
  const float largest = LargestOther(logits, token);
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (static_cast<int32_t>(i) != token) sum += std::exp(static_cast<double>(logits[i] - largest));
  }
  return static_cast<float>(std::log(sum));
}

size_t LeastRefused(absl::Span<const float> margins, float apart_margin) {
  size_t best = 0;
  float least = margins[0] + apart_margin;
  for (size_t i = 1; i < margins.size(); ++i) {
    if (!(margins[i] < least)) continue;
    best = i;
    least = margins[i];
  }
  return best;
}

int32_t Sampler::Sample(const NextToken& next) {
  if (greedy()) return next.likeliest;
  const std::vector<float>& logits = next.logits;
  const float largest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> weights(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    weights[i] = std::exp((logits[i] - largest) / temperature_);
  }
  std::discrete_distribution<int32_t> distribution(weights.begin(), weights.end());
  return distribution(random_);
}

StepBatcher::StepBatcher(const Transformer& transformer)
    : transformer_(transformer),
      batcher_(
          kMaxBatch, [](const Step& step) { return step.sequence.tokens.size(); },
          [this](absl::Span<Step* const> steps) { Process(steps); }) {}

absl::Status StepBatcher::Run(Step& step) {
  // Here, where a want of it is this session's alone: a step of all who decode would share it.
  MSA_RETURN_IF_ERROR(step.sequence.cache->Reserve(1));
  batcher_.Run(&step);
  return step.status;
}

absl::StatusOr<NextToken> StepBatcher::Feed(Prefill& state, int32_t id, bool wants_logits) {
  Step step;
  step.wants_logits = wants_logits;
  step.sequence.tokens = absl::MakeConstSpan(&id, 1);
  step.sequence.first_position = state.next_position;
  step.sequence.cache = state.cache.get();
  step.sequence.context = state.context.get();
  MSA_RETURN_IF_ERROR(Run(step));
  ++state.next_position;
  return std::move(step.next);
}

void StepBatcher::Process(absl::Span<Step* const> steps) {
  std::vector<SequenceChunk> sequences;
  bool logits_wanted = false;
  for (const Step* step : steps) {
    sequences.push_back(step->sequence);
    logits_wanted |= step->wants_logits;
  }
  std::vector<float> logits;  // [steps, vocab]
  const auto tokens = transformer_.NextTokens(sequences, logits_wanted ? &logits : nullptr);
  const int64_t vocab = transformer_.config().vocab_size;
  for (size_t i = 0; i < steps.size(); ++i) {
    steps[i]->status = tokens.status();
    if (!tokens.ok()) continue;
    steps[i]->next.likeliest = (*tokens)[i];
    if (!steps[i]->wants_logits) continue;
    const auto of_step = absl::MakeConstSpan(logits).subspan(i * vocab, vocab);
    steps[i]->next.logits.assign(of_step.begin(), of_step.end());
  }
}

bool Decoder::EndsMessage(int32_t id) const {
  const std::vector<int32_t>& ends = transformer_.config().eos_token_ids;
  if (std::find(ends.begin(), ends.end(), id) != ends.end()) return true;
  return tokenizer_.TokenId(kMessageEnd) == id;
}

absl::Status Decoder::Feed(Prefill& state, absl::Span<const int32_t> ids, bool causal) {
  SequenceChunk sequence;
  sequence.tokens = ids;
  sequence.first_position = state.next_position;
  sequence.cache = state.cache.get();
  sequence.causal = causal;
  sequence.context = state.context.get();
  MSA_ASSIGN_OR_RETURN(state.last_hidden, passes_.Forward(sequence, nullptr));
  state.next_position += static_cast<int32_t>(ids.size());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Prefill>> Decoder::FeedApart(
    absl::Span<const std::vector<int32_t>> prompts, bool causal, int32_t room) {
  std::vector<Prefill> states(prompts.size());
  std::vector<SequenceChunk> sequences(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    states[i].next_position = static_cast<int32_t>(prompts[i].size());
    states[i].cache =
        std::make_unique<KvCache>(transformer_.NewCache(states[i].next_position + room));
    sequences[i].tokens = prompts[i];
    sequences[i].cache = states[i].cache.get();
    sequences[i].causal = causal;
  }
  MSA_ASSIGN_OR_RETURN(const auto hidden, passes_.ForwardAll(sequences));
  const auto width = static_cast<size_t>(transformer_.config().hidden_size);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto of_state = absl::MakeConstSpan(hidden).subspan(i * width, width);
    states[i].last_hidden.assign(of_state.begin(), of_state.end());
  }
  return states;
}

absl::StatusOr<TakenReading> Decoder::FeedLeastRefused(
    const rpc::CallContext& ctx, absl::Span<const std::vector<int32_t>> prompts, bool causal,
    int32_t room, int32_t refusal, float apart_margin) {
  TakenReading taken;
  std::vector<float> margins;
  bool all_fit = true;
  while (margins.size() < prompts.size()) {
    MSA_RETURN_IF_ERROR(StillWanted(ctx));
    const auto left = prompts.subspan(margins.size());
    const size_t count = all_fit ? passes_.NumAtOnce(left) : 1;
    auto states = FeedApart(left.first(count), causal, std::min(room, kReadingRoom));
    if (count > 1 && absl::IsResourceExhausted(states.status())) {
      all_fit = false;  // their caches: one after the other
      continue;
    }
    MSA_RETURN_IF_ERROR(states.status());
    for (Prefill& state : *states) {
      MSA_ASSIGN_OR_RETURN(const float margin, NextMargin(state, refusal));
      margins.push_back(margin);
      const size_t least = LeastRefused(margins, apart_margin);
      if (least == margins.size() - 1) taken = {least, std::move(state)};
    }
  }
  // Here, where a want of it is this question's alone: batches of steps share theirs.
  MSA_RETURN_IF_ERROR(taken.state.cache->Reserve(room));
  return taken;
}

absl::StatusOr<float> Decoder::NextMargin(const Prefill& state, int32_t token) const {
  MSA_ASSIGN_OR_RETURN(const std::vector<float> logits, transformer_.Logits(state.last_hidden));
  return Margin(logits, token);
}

absl::StatusOr<Written> Decoder::Decode(const rpc::CallContext& ctx, Prefill& state,
                                        const DecodeOptions& options) {
  Tokenizer::StreamDecoder stream(tokenizer_, /*skip_special=*/false);
  Written written;
  NextToken next;
  if (options.first.has_value() && (options.first->added != 0 || options.first->against_all)) {
    MSA_ASSIGN_OR_RETURN(next.logits, transformer_.Logits(state.last_hidden));
    const TokenBias& first = *options.first;
    const float excess = first.against_all ? Excess(next.logits, first.token) : 0;
    next.logits[first.token] += first.added - excess;
    next.likeliest = ArgMax(next.logits);
  } else if (sampler_.greedy()) {
    MSA_ASSIGN_OR_RETURN(const auto tokens, transformer_.LikeliestTokens(state.last_hidden));
    next.likeliest = tokens.front();
  } else {
    MSA_ASSIGN_OR_RETURN(next.logits, transformer_.Logits(state.last_hidden));
  }
  const StepBatcher::Decoding decoding(batcher_.batcher());
  while (true) {
    MSA_RETURN_IF_ERROR(StillWanted(ctx));
    const int32_t id = sampler_.Sample(next);
    written.ended_message = EndsMessage(id);
    if (written.ended_message) break;
    written.ids.push_back(id);
    const std::string piece = stream.Push(id);
    written.text += piece;
    if (options.on_text && !piece.empty() && !options.on_text(piece)) {
      return absl::CancelledError("the client went away");
    }
    written.hit_limit = static_cast<int32_t>(written.ids.size()) >= options.max_new_tokens ||
                        state.next_position + 1 >= transformer_.config().max_positions;
    const bool stop = written.hit_limit || (options.stop && options.stop(written.text));
    MSA_ASSIGN_OR_RETURN(next, batcher_.Feed(state, id, !sampler_.greedy()));
    if (stop) break;
  }
  const std::string rest = stream.Flush();
  written.text += rest;
  if (options.on_text && !rest.empty()) options.on_text(rest);
  return written;
}

}  // namespace msa::compute_node

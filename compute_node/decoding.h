// Token by token: continuous batching of decode steps over sessions, sampling, text as it grows.
#ifndef MSA_COMPUTE_NODE_DECODING_H_
#define MSA_COMPUTE_NODE_DECODING_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compute_node/batcher.h"
#include "compute_node/memory_session.h"
#include "compute_node/model/tokenizer.h"
#include "compute_node/model/transformer.h"
#include "compute_node/pass_sharer.h"

namespace msa::compute_node {

// Index of the largest logit, the lower index of equals.
int32_t ArgMax(absl::Span<const float> logits);

// What a step leads to: the likeliest token, or the logits [vocab] for those who sample.
struct NextToken {
  int32_t likeliest = 0;
  std::vector<float> logits;  // empty unless asked for
};

// Greedy at temperature 0, else samples the softmax of logits / temperature. Same seed, same
// tokens.
class Sampler {
 public:
  Sampler(float temperature, uint64_t seed) : temperature_(temperature), random_(seed) {}
  // Whether Sample is the likeliest token whatever the logits.
  bool greedy() const { return temperature_ <= 0; }
  int32_t Sample(const NextToken& next);

 private:
  float temperature_;
  std::mt19937_64 random_;
};

// Runs waiting sessions' next tokens as one pass. Thread-safe.
class StepBatcher {
 public:
  static constexpr size_t kMaxBatch = 64;
  explicit StepBatcher(const Transformer& transformer);

  // One session's token, fed after its cache; blocks until what comes after it is known.
  struct Step {
    SequenceChunk sequence;
    bool wants_logits = false;
    NextToken next;  // out
    absl::Status status;
  };
  absl::Status Run(Step& step);
  // Feeds one token after `state` and moves it on.
  absl::StatusOr<NextToken> Feed(Prefill& state, int32_t id, bool wants_logits);

  // Held while a session decodes: batches wait a moment for every session that does.
  using Decoding = Batcher<Step>::Regular;
  Batcher<Step>& batcher() { return batcher_; }

 private:
  void Process(absl::Span<Step* const> steps);

  const Transformer& transformer_;
  Batcher<Step> batcher_;
};

// What one decode produced.
struct Written {
  std::vector<int32_t>
      ids;  // every token written, the one that ended it included unless it ended the message
  std::string text;  // of ids
  bool ended_message = false;
  bool hit_limit = false;
};

// Added to one token's logit.
struct TokenBias {
  int32_t token = 0;
  float added = 0;
  // Less is added by Excess: greedily the token is taken where its log odds are above -added.
  bool against_all = false;
};

// The first token of a checkpoint's refusal and what is added to it where a reader's answer begins;
// nothing where its config names no refusal.
absl::StatusOr<std::optional<TokenBias>> RefusalStart(const MemoryConfig& config,
                                                      const Tokenizer& tokenizer);

// CANCELLED, DEADLINE_EXCEEDED once nobody waits for the answer any more.
absl::Status StillWanted(const rpc::CallContext& ctx);

// How much larger one token's logit is than the largest other.
float Margin(absl::Span<const float> logits, int32_t token);

// How much larger the log-sum-exp of all other logits is than the largest of them; not below 0.
float Excess(absl::Span<const float> logits, int32_t token);

// Of readings whose answers begin with the refusal's first token by these margins the one that is
// least refused; of equals, and of what is no number, an earlier one. The first is of all texts
// together, which has to be less refused by `apart_margin`. Not empty.
size_t LeastRefused(absl::Span<const float> margins, float apart_margin);

// Of several readings the one that is taken.
struct TakenReading {
  size_t index = 0;
  Prefill state;
};

struct DecodeOptions {
  int32_t max_new_tokens = 256;
  std::optional<TokenBias> first;  // when the first token is chosen
  // Asked after each token with the text so far; true stops. Null: only the message's end and the
  // limit stop.
  std::function<bool(std::string_view)> stop;
  // Whole UTF-8 characters as they come; false: the client is gone. Null: nobody listens.
  std::function<bool(const std::string&)> on_text;
};

// Decodes for one session. Not thread-safe.
class Decoder {
 public:
  Decoder(const Transformer& transformer, const Tokenizer& tokenizer, PassSharer& passes,
          StepBatcher& batcher, Sampler& sampler)
      : transformer_(transformer),
        tokenizer_(tokenizer),
        passes_(passes),
        batcher_(batcher),
        sampler_(sampler) {}

  // Goes on from `state`, whose last_hidden gives the first token. Every token written is fed, so
  // that the context holds all of `ids`. CANCELLED, DEADLINE_EXCEEDED within one step.
  absl::StatusOr<Written> Decode(const rpc::CallContext& ctx, Prefill& state,
                                 const DecodeOptions& options);
  // Feeds tokens after the kept context in one step and leaves `state` ready to decode on. Not
  // `causal`: they all see each other.
  absl::Status Feed(Prefill& state, absl::Span<const int32_t> ids, bool causal);
  // Reads each of `prompts` by itself and in one step, as Feed does, from position 0 and with room
  // to decode so many tokens: as few passes as PassSharer makes of them, one after the other where
  // there is no memory for their caches. The one that is least refused (LeastRefused, in their
  // order) is kept; the others' caches are gone with their pass. Room beyond kReadingRoom is made
  // in the kept one only. CANCELLED, DEADLINE_EXCEEDED before a pass; RESOURCE_EXHAUSTED.
  absl::StatusOr<TakenReading> FeedLeastRefused(const rpc::CallContext& ctx,
                                                absl::Span<const std::vector<int32_t>> prompts,
                                                bool causal, int32_t room, int32_t refusal,
                                                float apart_margin);
  static constexpr int32_t kReadingRoom = 256;
  // Margin of a token where `state` goes on.
  absl::StatusOr<float> NextMargin(const Prefill& state, int32_t token) const;

  // A token that ends the model's message.
  bool EndsMessage(int32_t id) const;

 private:
  // A state for each prompt, all in one call of `passes_`.
  absl::StatusOr<std::vector<Prefill>> FeedApart(absl::Span<const std::vector<int32_t>> prompts,
                                                 bool causal, int32_t room);

  const Transformer& transformer_;
  const Tokenizer& tokenizer_;
  PassSharer& passes_;
  StepBatcher& batcher_;
  Sampler& sampler_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_DECODING_H_

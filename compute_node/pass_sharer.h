// Joins prefills that are asked for at the same time into one pass: prompts are short beside what a
// device multiplies at once, so several read the weights once, and their questions come to a bank's
// scan together.
#ifndef MSA_COMPUTE_NODE_PASS_SHARER_H_
#define MSA_COMPUTE_NODE_PASS_SHARER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "compute_node/batcher.h"
#include "compute_node/model/transformer.h"
#include "compute_node/routed_hook.h"

namespace msa::compute_node {

// Thread-safe.
class PassSharer {
 public:
  // Tokens of a pass of more than one sequence.
  static constexpr size_t kMaxTokens = 8192;

  // `transformer` must outlive it. Without `joins` every sequence has a pass to itself.
  PassSharer(const Transformer& transformer, bool joins, size_t max_tokens = kMaxTokens);

  // As Transformer::Forward of this sequence alone, which has a cache; where a backend's products
  // depend on the number of rows, their last bits depend on who shares the pass. The hook, which
  // may be null, is called on any thread, one call at a time, with the caller's request id for its
  // log lines; what it returns ends this sequence only, when the pass ends.
  absl::StatusOr<std::vector<float>> Forward(const SequenceChunk& sequence, RoutedHook* hook);
  // As Transformer::Forward of one caller's sequences, in one pass where passes are joined:
  // together they are as many as NumAtOnce says, at most. RESOURCE_EXHAUSTED where there is no room
  // for the caches of all, or for the tensors of one.
  absl::StatusOr<std::vector<float>> ForwardAll(absl::Span<const SequenceChunk> sequences);
  // How many prompts, from the first on, one pass takes; never less than one. Not empty.
  size_t NumAtOnce(absl::Span<const std::vector<int32_t>> prompts) const;

  // Calls that no pass has taken yet.
  size_t waiting() const { return routed_.waiting() + plain_.waiting(); }

 private:
  struct Item;
  class Hooks;

  absl::StatusOr<std::vector<float>> Run(absl::Span<const SequenceChunk> sequences,
                                         RoutedHook* hook);
  void Process(absl::Span<Item* const> items) const;
  void RunAlone(Item& item) const;

  const Transformer& transformer_;
  const bool joins_;
  const size_t max_tokens_;
  // Those that route wait long between layers: others do not wait for them.
  Batcher<Item> routed_;
  Batcher<Item> plain_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_PASS_SHARER_H_

// What routing means, shared by every folder: reductions, the order of results, the shape of keys
// and queries.
#ifndef MSA_COMMON_ROUTING_H_
#define MSA_COMMON_ROUTING_H_

#include <cstdint>
#include <limits>

namespace msa {

// How scores are reduced over heads, query tokens or chunks. Heads: kMean, kMax. Query tokens: all
// three (kLast is the last routing token). Chunks: kMean, kMax. The numbers are stored and sent:
// never reuse one.
enum class Reduce : uint8_t { kMean = 1, kMax = 2, kLast = 3 };

// The score of a part nothing can be said of (it has no chunks, or is masked): never selected.
inline constexpr float kNoScore = -std::numeric_limits<float>::infinity();

struct ScoredPart {
  float score = kNoScore;
  int64_t reference = 0;  // the part's reference number, unique in its bank
};

// The one order of results, on every device and shard layout: score descending, then reference
// number ascending.
inline bool Precedes(const ScoredPart& a, const ScoredPart& b) {
  return a.score != b.score ? a.score > b.score : a.reference < b.reference;
}

// How routing scores are made (docs/numerics.md). score = scale · reduce over chunks of reduce over
// query tokens of reduce over heads of q·k, in this order: heads, query tokens, chunks.
struct RoutingShape {
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  Reduce head = Reduce::kMean;
  Reduce query = Reduce::kMax;
  Reduce chunk = Reduce::kMax;
  float scale = 1.0f;

  // With the mean over heads, query heads fold into KV groups and a score is one dot product.
  bool folded() const { return head == Reduce::kMean; }
  // Elements of one key: [num_kv_heads, head_dim].
  int key_width() const { return num_kv_heads * head_dim; }
  // Elements of one query token: [num_kv_heads, head_dim] folded, else [num_q_heads, head_dim].
  int query_width() const { return (folded() ? num_kv_heads : num_q_heads) * head_dim; }

  bool operator==(const RoutingShape&) const = default;
};

}  // namespace msa

#endif  // MSA_COMMON_ROUTING_H_

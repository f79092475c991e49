// The host's half of attention.h: a batch of sequences, cut into work items. Pure C++, no device is
// touched; thread-safe.
#ifndef MSA_KERNELS_CUDA_ATTENTION_PLAN_H_
#define MSA_KERNELS_CUDA_ATTENTION_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/element_type.h"

namespace msa::kernels::cuda {

enum class AttentionPrecision : uint8_t { kFloat32, kBFloat16 };

// As KvView: device pointers; scales [num_tokens, num_kv_heads] for kInt8 and kFloat8E4M3.
struct AttentionKv {
  const void* k = nullptr;  // [num_tokens, num_kv_heads, head_dim] of `type`
  const void* v = nullptr;
  const float* k_scales = nullptr;
  const float* v_scales = nullptr;
  int64_t num_tokens = 0;
  ElementType type = ElementType::kFloat32;  // kFloat32, kBFloat16, kInt8, kFloat8E4M3
};

// As AttentionArgs; q and out are device pointers, `blocks` is borrowed by PlanAttention only.
struct AttentionInput {
  const float* q = nullptr;  // [num_queries, num_q_heads, head_dim]
  float* out = nullptr;
  int num_queries = 0;
  std::span<const AttentionKv> blocks;
  AttentionKv local;
  int64_t first_visible = 0;
  bool causal = true;
};

// Common to the sequences of a plan.
struct AttentionShape {
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;    // at most kMaxAttentionDim
  float scale = 1.0f;  // above 0
  AttentionPrecision precision = AttentionPrecision::kFloat32;

  int group() const { return num_q_heads / num_kv_heads; }
};
inline constexpr int kMaxAttentionDim = 256;
// A decode sequence is cut into so many splits at most.
inline constexpr int64_t kMostDecodeSplits = 32;
// Decode blocks that a Hopper chip holds at once, three on each of 132 multiprocessors: rather than
// more, longer ones. A tensor-core plan has no more, unless it has more sequences: then they are
// four times as many and short, as those that come last leave most of the chip idle.
inline constexpr int64_t kMostDecodeBlocks = 396;
inline constexpr int64_t MostDecodeBlocks(int64_t sequences, int num_kv_heads) {
  const int64_t least = sequences * num_kv_heads;
  return least <= kMostDecodeBlocks ? kMostDecodeBlocks : std::max(least, 4 * kMostDecodeBlocks);
}

struct AttentionOptions {
  // Tokens a decode split covers; 0 = by the sequence's own length (256 up to 8,192 tokens).
  int decode_split_tokens = 0;
  // Local tokens a sequence may grow to while the table is advanced on the device (AdvanceLocal):
  // splits are made for this length. 0 = its present length.
  int64_t local_capacity = 0;
  // Whether the tensor-core kernels of compute capability 9.0 may be used (they need sm_90a).
  bool hopper = false;
};

// What a launch needs to know on the host; plain data, all in all under 200 bytes.
struct AttentionLaunch {
  AttentionShape shape;
  bool tensor_cores = false;
  bool hopper = false;
  int decode_element_bytes = 0;  // room for an element in the decode kernel: 2 or 4
  int num_sequences = 0;
  int num_decode_items = 0;
  int num_prefill_items = 0;
  int num_pack_items = 0;
  int num_merge_items = 0;
  // Byte offsets in the table: sequences at 0, then
  size_t views_offset = 0;
  size_t decode_offset = 0;
  size_t prefill_offset = 0;
  size_t pack_offset = 0;
  size_t merge_offset = 0;
  size_t counters_offset = 0;
  size_t table_bytes = 0;
  // Byte offsets in the workspace: partial sums at 0, then
  size_t state_offset = 0;
  size_t packed_k_offset = 0;
  size_t packed_v_offset = 0;
  size_t workspace_bytes = 0;
};

struct AttentionPlan {
  AttentionLaunch launch;
  std::vector<uint8_t> table;  // to be copied to 16-byte aligned device memory
};

// Every element of `inputs` is one sequence. Cost: O(views + items).
AttentionPlan PlanAttention(const AttentionShape& shape, std::span<const AttentionInput> inputs,
                            const AttentionOptions& options = {});

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ATTENTION_PLAN_H_

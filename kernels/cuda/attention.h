// Attention on the device: softmax over [blocks… ; local] for a batch of sequences, semantics of
// AttentionArgs (kernels/types.h). Three steps: PlanAttention (host, pure C++) cuts the batch into
// work items; the caller copies plan.table to the device; LaunchAttention runs it, as often as the
// table stays true. Decode (num_queries · group <= 16) is split over tokens by the sequence's own
// length, so that a result does not depend, to the bit, on which others share the batch.
//
// Precision. kFloat32: products and sums in float32 on CUDA cores, any head_dim up to 256.
// kBFloat16: q, k, v and softmax weights rounded to bfloat16 for the tensor cores, sums and softmax
// in float32 (int8 and fp8 steps are exact there in decode; the scales stay float32); head_dim 64
// and 128 with 16-byte aligned pointers, anything else is computed as kFloat32.
//
// NaN shows in the queries that see it only; a query that sees nothing gives zeros.
#ifndef MSA_KERNELS_CUDA_ATTENTION_H_
#define MSA_KERNELS_CUDA_ATTENTION_H_

#include <cuda_runtime_api.h>

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
  int head_dim = 0;  // at most kMaxAttentionDim
  float scale = 1.0f;
  AttentionPrecision precision = AttentionPrecision::kFloat32;

  int group() const { return num_q_heads / num_kv_heads; }
};
inline constexpr int kMaxAttentionDim = 256;

struct AttentionOptions {
  // Tokens a decode split covers at least; 0 = by the sequence's own length (256 up to 8,192
  // tokens).
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
  int decode_element_bytes = 0;  // the widest type among the decode sequences' views
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

// Every element of `inputs` is one sequence. Pure: touches no device. Cost: O(views + items).
AttentionPlan PlanAttention(const AttentionShape& shape, std::span<const AttentionInput> inputs,
                            const AttentionOptions& options = {});

// `table` and `workspace` (workspace_bytes, 256-byte aligned, any content) are device memory, in
// use until the stream has passed the call. Up to three kernels: pack, attend, merge. Can be
// captured in a CUDA graph: kernels read lengths and pointers from `table`.
cudaError_t LaunchAttention(const AttentionLaunch& launch, const void* table, void* workspace,
                            cudaStream_t stream);

// Every sequence's local context has grown by `tokens` rows, in place: adds them to local rows and
// first_visible in the table. Only for plans made with local_capacity, and not beyond it.
cudaError_t AdvanceLocal(const AttentionLaunch& launch, void* table, int tokens,
                         cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ATTENTION_H_

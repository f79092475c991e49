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

#include "kernels/cuda/attention_plan.h"

namespace msa::kernels::cuda {

// `table` and `workspace` (workspace_bytes, 256-byte aligned, any content) are device memory, in
// use until the stream has passed the call, by one launch at a time. Up to three kernels: pack,
// attend, merge; decode alone is one. Can be captured in a CUDA graph: kernels read lengths and
// pointers from `table`. Decode begins to read while the kernel before it in the stream still runs
// (sm_90): that may write queries and each sequence's newest local row, and nothing else of it.
cudaError_t LaunchAttention(const AttentionLaunch& launch, void* table, void* workspace,
                            cudaStream_t stream);

// Every sequence's local context has grown by `tokens` rows, in place: adds them to local rows and
// first_visible in the table. Only for plans made with local_capacity, and not beyond it.
cudaError_t AdvanceLocal(const AttentionLaunch& launch, void* table, int tokens,
                         cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ATTENTION_H_

// Where the prefill kernels read K and V: bfloat16 rows in at most two places.
#ifndef MSA_KERNELS_CUDA_PREFILL_CUH_
#define MSA_KERNELS_CUDA_PREFILL_CUH_

#include "kernels/cuda/attention_device.cuh"

namespace msa::kernels::cuda {

// One of K and V of one KV head: tokens up to packed_tokens in the workspace, then in place.
struct Source {
  const __nv_bfloat16* packed;
  const __nv_bfloat16* rest;  // of token packed_tokens
  int packed_tokens;
  int64_t stride;  // elements between tokens

  __device__ __forceinline__ const __nv_bfloat16* Row(int token) const {
    return token < packed_tokens ? packed + token * stride
                                 : rest + (token - packed_tokens) * stride;
  }
};

__device__ __forceinline__ Source SourceOf(const AttentionTables& tables, const TableSequence& s,
                                           const __nv_bfloat16* packed, const void* local,
                                           int kv_head) {
  const int64_t stride = static_cast<int64_t>(tables.num_kv_heads) * tables.head_dim;
  const int64_t column = static_cast<int64_t>(kv_head) * tables.head_dim;
  return {packed + s.packed_row * stride + column,
          static_cast<const __nv_bfloat16*>(local) + column, s.packed_tokens, stride};
}

cudaError_t LaunchPrefillHopper(const AttentionLaunch& launch, const AttentionTables& tables,
                                cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_PREFILL_CUH_

// Where a decode step's new row goes.
#ifndef MSA_KERNELS_CUDA_KV_SLOTS_H_
#define MSA_KERNELS_CUDA_KV_SLOTS_H_

namespace msa::kernels::cuda {

// The first token's slot of a sequence's cache, [capacity, num_kv_heads, head_dim] of the type that
// QkvArgs::cache_type says; device memory.
struct KvSlots {
  void* k = nullptr;
  void* v = nullptr;
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_KV_SLOTS_H_

// Dense products of a few rows, at the speed the weights come from memory: what a decode step of a
// few sessions is made of. The norm before a product and what is done with its result ride along.
//
// A row's result does not depend, to the bit, on how many rows there are nor on the others. x is
// rounded to bfloat16 (after the norm's weights, before the division by its root), sums are
// float32.
#ifndef MSA_KERNELS_CUDA_SKINNY_H_
#define MSA_KERNELS_CUDA_SKINNY_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace msa::kernels::cuda {

inline constexpr int64_t kSkinnyRows = 8;

enum class SkinnyThen : uint8_t { kStore, kAdd, kSiluMul };  // as LinearThen

struct SkinnyArgs {
  const void* w = nullptr;  // bfloat16 [out_features, in_features]
  int64_t out_features = 0;
  int64_t in_features = 0;
  const void* x = nullptr;  // [rows, in_features], float32, or bfloat16 when x_half
  bool x_half = false;      // not with a norm
  int64_t rows = 0;
  const float* norm = nullptr;  // [in_features]: RmsNorm of x's rows first; null: none
  float eps = 0.0f;
  const float* bias = nullptr;  // [out_features]; null: none
  // kStore: y = the product. kAdd: y += it. kSiluMul: its first half are gates, its second half
  // what they gate, y [rows, out_features / 2].
  SkinnyThen then = SkinnyThen::kStore;
  void* y = nullptr;    // float32, or bfloat16 when y_half
  bool y_half = false;  // kSiluMul only
};

// Whether SkinnyLinear takes the shape and the addresses.
bool ServesSkinny(const SkinnyArgs& args);

// Device pointers; one kernel. On sm_90 the weights' first lines are read while the kernel before
// it in the stream still runs: it must not write them. REQUIRES: ServesSkinny(args).
cudaError_t SkinnyLinear(const SkinnyArgs& args, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_SKINNY_H_

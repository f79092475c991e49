// How a row of x becomes an operand of a product of a few rows: x as it is or times a norm's
// weights, rounded to bfloat16. Only for skinny*.cu.
#ifndef MSA_KERNELS_CUDA_SKINNY_INPUT_CUH_
#define MSA_KERNELS_CUDA_SKINNY_INPUT_CUH_

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/skinny.h"

namespace msa::kernels::cuda {

inline constexpr int kSkinnyWarps = 8;
inline constexpr int kStepColumns = 32;

enum class SkinnyInput { kFloat32, kNormedFloat32, kHalf };

// Columns column … column + 7 of the row of x that begins at element `row`, as they come from
// memory, and then as a product's operand: times the norm's weights where there is one.
template <SkinnyInput kInput>
struct XColumns {
  static constexpr bool kNorms = kInput == SkinnyInput::kNormedFloat32;

  __device__ __forceinline__ void Load(const SkinnyArgs& args, int64_t row, int column) {
    const int64_t at = row + column;
    if constexpr (kInput == SkinnyInput::kHalf) {
      half = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(args.x) + at);
    } else {
      const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(args.x) + at);
      a = from[0];
      b = from[1];
    }
    if constexpr (kNorms) {
      p = __ldg(reinterpret_cast<const float4*>(args.norm + column));
      q = __ldg(reinterpret_cast<const float4*>(args.norm + column + 4));
    }
  }
  // Adds the squares of x when there is a norm.
  __device__ __forceinline__ uint4 Operand(float& squares) const {
    if constexpr (kInput == SkinnyInput::kHalf) return half;
    float4 c = a;
    float4 d = b;
    if constexpr (kNorms) {
      squares += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
      squares += b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
      c = {a.x * p.x, a.y * p.y, a.z * p.z, a.w * p.w};
      d = {b.x * q.x, b.y * q.y, b.z * q.z, b.w * q.w};
    }
    return {PackBFloat16(c.x, c.y), PackBFloat16(c.z, c.w), PackBFloat16(d.x, d.y),
            PackBFloat16(d.z, d.w)};
  }

  uint4 half;
  float4 a, b, p, q;
};

// x of one warp and lane, of the row that the lane stands for: kCount of its steps on their way.
template <SkinnyInput kInput, int kCount>
class XSteps {
 public:
  __device__ XSteps(const SkinnyArgs& args, int warp, int lane)
      : args_(args),
        warp_(warp),
        num_steps_(static_cast<int>(args.in_features / kStepColumns)),
        real_(lane / 4 < args.rows),
        quad_(8 * (lane % 4)),
        row_((real_ ? lane / 4 : 0) * args.in_features) {}

  __device__ __forceinline__ int num_steps() const { return num_steps_; }
  // Asks for the warp's steps `first` … `first` + kCount - 1, all before one is waited for: behind
  // weights on their way a load takes long.
  __device__ __forceinline__ void Ask(int first) {
    first_ = first;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int column = min(Step(i), num_steps_ - 1) * kStepColumns + quad_;
      columns_[i].Load(args_, row_, column);
    }
  }
  // As operands, zeros beyond the last; adds the squares of x.
  __device__ __forceinline__ void Take(uint4* to, float& squares) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool there = real_ && Step(i) < num_steps_;
      float with_step = squares;
      const uint4 x = columns_[i].Operand(with_step);
      to[i] = there ? x : uint4{0, 0, 0, 0};
      if (there) squares = with_step;
    }
  }

 private:
  __device__ __forceinline__ int Step(int i) const { return (first_ + i) * kSkinnyWarps + warp_; }

  const SkinnyArgs& args_;
  const int warp_;
  const int num_steps_;
  const bool real_;
  const int quad_;
  const int64_t row_;
  int first_ = 0;
  XColumns<kInput> columns_[kCount];
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_SKINNY_INPUT_CUH_

// Every reduction and width, one warp a part and question: heads, then rows, then chunks, each key
// read once for each row (from the cache after the first).
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/routing.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 256;

struct GeneralArgs {
  RoutingShape shape;
  int key_width = 0;
  int query_width = 0;
  const RoutingSegment* segments = nullptr;
  const float* queries = nullptr;
  int32_t row_begin = 0;
  int32_t row_end = 0;
  float* scores = nullptr;  // of this question
};

__device__ float ToFloat(float x) { return x; }
__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float ToFloat(int8_t x) { return x; }
__device__ float ToFloat(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

// A reduction in progress: a maximum, a sum, or the last value.
class Reduction {
 public:
  __device__ explicit Reduction(Reduce how) : how_(how) {}

  __device__ void Take(double value) {
    if (how_ == Reduce::kMean) {
      sum_ += value;
    } else {
      best_ = how_ == Reduce::kMax ? MaxOrNan(best_, static_cast<float>(value))
                                   : static_cast<float>(value);
    }
    ++count_;
  }

  __device__ double Result() const { return how_ == Reduce::kMean ? sum_ / count_ : best_; }

 private:
  Reduce how_;
  double sum_ = 0;
  float best_ = kNoScore;
  int64_t count_ = 0;
};

// The same in every lane.
template <typename Key>
__device__ float Dot(const float* query, const Key* key, int width) {
  float sum = 0;
  for (int i = threadIdx.x % 32; i < width; i += 32) sum = fmaf(query[i], ToFloat(key[i]), sum);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return sum;
}

template <typename Key>
__device__ double RowScore(const GeneralArgs& args, const float* query, const Key* key) {
  const RoutingShape& shape = args.shape;
  if (shape.head == Reduce::kMean) return Dot(query, key, args.key_width);  // folded
  Reduction heads(shape.head);
  const int group = shape.num_q_heads / shape.num_kv_heads;
  for (int head = 0; head < shape.num_q_heads; ++head) {
    heads.Take(
        Dot(query + head * shape.head_dim, key + head / group * shape.head_dim, shape.head_dim));
  }
  return heads.Result();
}

template <typename Key>
__device__ float PartScore(const GeneralArgs& args, const RoutingSegment& segment, int64_t part) {
  const RoutingShape& shape = args.shape;
  Reduction chunks(shape.chunk);
  for (int64_t c = segment.part_begin[part]; c < segment.part_begin[part + 1]; ++c) {
    const Key* key = static_cast<const Key*>(segment.keys) + c * args.key_width;
    Reduction rows(shape.query);
    const int32_t begin = shape.query == Reduce::kLast ? args.row_end - 1 : args.row_begin;
    for (int64_t row = begin; row < args.row_end; ++row) {
      rows.Take(RowScore(args, args.queries + row * args.query_width, key));
    }
    const float scale = segment.scales == nullptr ? 1.0f : segment.scales[c];
    chunks.Take(static_cast<float>(rows.Result()) * scale);
  }
  return static_cast<float>(chunks.Result() * shape.scale);
}

template <typename Key>
__global__ void __launch_bounds__(kThreads)
    GeneralKernel(const __grid_constant__ GeneralArgs args) {
  const RoutingSegment segment = args.segments[blockIdx.y];
  const int64_t stride = static_cast<int64_t>(gridDim.x) * (kThreads / 32);
  for (int64_t part = blockIdx.x * (kThreads / 32) + threadIdx.x / 32; part < segment.num_parts;
       part += stride) {
    const bool empty = segment.part_begin[part] == segment.part_begin[part + 1];
    const float score = empty ? kNoScore : PartScore<Key>(args, segment, part);
    if (threadIdx.x % 32 == 0) args.scores[segment.first_part + part] = score;
  }
}

template <typename Key>
cudaError_t Launch(const RoutingArgs& args, cudaStream_t stream) {
  constexpr int64_t kMaxBlocksOfSegment = 2048;
  const int64_t blocks = (args.num_parts + kThreads / 32 - 1) / (kThreads / 32);
  const dim3 grid(static_cast<unsigned>(std::min(blocks, kMaxBlocksOfSegment)),
                  static_cast<unsigned>(args.num_segments));
  for (int question = 0; question < args.num_questions; ++question) {
    GeneralArgs general;
    general.shape = args.shape;
    general.key_width = args.shape.key_width();
    general.query_width = args.shape.query_width();
    general.segments = args.segments;
    general.queries = args.queries;
    general.row_begin = args.host_query_begin[question];
    general.row_end = args.host_query_begin[question + 1];
    general.scores = args.scores + question * args.num_parts;
    GeneralKernel<Key><<<grid, kThreads, 0, stream>>>(general);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t ScorePartsGeneral(const RoutingArgs& args, cudaStream_t stream) {
  if (args.num_parts == 0 || args.num_segments == 0) return cudaSuccess;
  switch (args.format) {
    case KeyFormat::kFloat32:
      return Launch<float>(args, stream);
    case KeyFormat::kBFloat16:
      return Launch<__nv_bfloat16>(args, stream);
    case KeyFormat::kInt8:
      return Launch<int8_t>(args, stream);
    case KeyFormat::kFloat8:
      return Launch<__nv_fp8_e4m3>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace msa::kernels::cuda

// The small operations of a decoder layer, each one kernel. Semantics of kernels/backend.h;
// arithmetic in float32 with the accurate functions of libdevice. All pointers are device pointers,
// borrowed until the stream has passed the call; nothing is allocated, nothing synchronises; rows
// may be 0. Each returns the error of its launch, cudaErrorInvalidValue for a shape or a type that
// it does not serve. Thread-safe. Cost: one pass over inputs and outputs at memory bandwidth.
#ifndef MSA_KERNELS_CUDA_FUSED_H_
#define MSA_KERNELS_CUDA_FUSED_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/element_type.h"
#include "kernels/cuda/kv_slots.h"

namespace msa::kernels::cuda {

// A result in float32, in bfloat16, or in both: null = not wanted.
struct FloatOutputs {
  float* f32 = nullptr;
  void* bf16 = nullptr;
};

// out = x / sqrt(mean(x²) + eps) · weight, row by row; x [rows, width]; out.f32 may be x.
cudaError_t RmsNorm(const float* x, const float* weight, int64_t rows, int64_t width, float eps,
                    FloatOutputs out, cudaStream_t stream);

// x += y in place, then RmsNorm of the sum. out.f32 must not be x.
cudaError_t AddRmsNorm(float* x, const float* y, const float* weight, int64_t rows, int64_t width,
                       float eps, FloatOutputs out, cudaStream_t stream);

struct QkvArgs {
  const float* qkv = nullptr;  // [rows, (num_q_heads + 2 · num_kv_heads) · head_dim]: q, k, v
  int64_t rows = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;  // even
  // Per-head RMSNorm of q and k before the rotation, weights [head_dim]; null = none.
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float eps = 0.0f;
  const int32_t* positions = nullptr;  // [rows]
  const float* inv_freq = nullptr;     // [head_dim / 2]
  float magnitude = 1.0f;
  float* q = nullptr;  // out [rows, num_q_heads, head_dim], null = not wanted; likewise k and v
  float* k = nullptr;  // out [rows, num_kv_heads, head_dim]
  float* v = nullptr;
  // The caches: null = none. Row r is stored as token cache_tokens[r] of caches[r]; a negative
  // token stores nothing.
  const KvSlots* caches = nullptr;                 // [rows]
  const int32_t* cache_tokens = nullptr;           // [rows]
  ElementType cache_type = ElementType::kFloat32;  // kFloat32 or kBFloat16
};

// Splits packed rows into q, k and v, normalises heads, rotates q and k.
cudaError_t SplitQkv(const QkvArgs& args, cudaStream_t stream);

// In place, as Backend::Rope: x [rows, num_heads, head_dim], positions [rows].
cudaError_t Rope(float* x, const int32_t* positions, int64_t rows, int num_heads, int head_dim,
                 const float* inv_freq, float magnitude, cudaStream_t stream);

// out = silu(gate) · up: row r of gate and of up starts `stride` elements after row r-1 (2 · width
// when packed as [rows, gate | up]); out [rows, width]. With stride = width, out.f32 may be gate or
// up.
cudaError_t SiluMul(const float* gate, const float* up, int64_t rows, int64_t width, int64_t stride,
                    FloatOutputs out, cudaStream_t stream);

// x[i] += y[i].
cudaError_t Add(float* x, const float* y, int64_t n, cudaStream_t stream);

// y[r, :] += bias, y [rows, width].
cudaError_t AddBias(float* y, const float* bias, int64_t rows, int64_t width, cudaStream_t stream);

// out[i, :] = table[indices[i], :], widened to float32; rows of the table are `stride` elements
// apart. An embedding lookup, a choice of rows. kFloat32, kBFloat16, kFloat16.
cudaError_t GatherRows(const void* table, ElementType type, const int32_t* indices, int64_t rows,
                       int64_t width, int64_t stride, FloatOutputs out, cudaStream_t stream);

// indices[r] = the lowest index of a largest element of x[r, 0 … n-1]; NaN is never it (0 when all
// are). values [rows] may be null.
cudaError_t ArgMax(const float* x, int64_t rows, int64_t n, int32_t* indices, float* values,
                   cudaStream_t stream);

// As in Backend; see there.
cudaError_t L2Normalize(float* x, int64_t rows, int64_t head_dim, cudaStream_t stream);
cudaError_t FoldQueries(const float* q, int64_t num_tokens, int num_q_heads, int num_kv_heads,
                        int head_dim, float* out, cudaStream_t stream);

// kFloat8E4M3 is like kInt8, with scale = max|x| / 448.
cudaError_t Quantize(const float* x, int64_t rows, int64_t width, ElementType type, void* out,
                     float* scales, cudaStream_t stream);
cudaError_t Dequantize(const void* x, const float* scales, int64_t rows, int64_t width,
                       ElementType type, float* out, cudaStream_t stream);

// Mean of each chunk of a packed batch of documents, then optionally an L2 norm of each head, then
// precision. NUMERICS "Chunk pooling": each chunk is summed by itself, in order, in float32.
struct PoolArgs {
  const float* x = nullptr;  // rows of num_heads · head_dim elements, `stride` elements apart
  int64_t stride = 0;
  // Chunk c covers rows chunk_begin[c] … chunk_begin[c+1]-1, at least one; device [num_chunks + 1].
  // Null: chunk c covers chunk_tokens rows of num_tokens, the last one fewer.
  const int32_t* chunk_begin = nullptr;
  int64_t num_chunks = 0;
  int64_t chunk_tokens = 0;
  int64_t num_tokens = 0;
  int num_heads = 0;  // num_heads · head_dim <= 8192, unless neither normalised nor scaled
  int head_dim = 0;
  bool normalize = false;  // each head divided by max(its L2 norm, 1e-12)
  ElementType type = ElementType::kFloat32;
  void* out = nullptr;  // [num_chunks, num_heads, head_dim] of `type`
  // kInt8, kFloat8E4M3: one scale a (chunk, head) [num_chunks, num_heads] when scale_per_head
  // (content), else one a chunk [num_chunks] (routing keys).
  float* scales = nullptr;
  bool scale_per_head = false;
};
cudaError_t PoolChunks(const PoolArgs& args, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_FUSED_H_

// Prefill on tensor cores, the algorithm of FlashAttention-2 (arXiv 2307.08691) with mma.sync: a
// block takes up to 128 rows of (query, head of the group) of one KV head, 32 a warp, and walks
// over the tokens they see in tiles. K and V are bfloat16 by now (PackKernel); the copy of a tile's
// V runs under its scores, the copy of the next K under the softmax and the weighted sum.
#include "kernels/cuda/async.cuh"
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/prefill.cuh"
#include "kernels/cuda/softmax.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTileTokens = 64;

template <int kDimension, int kFragments>
struct PrefillTile {
  static constexpr int kDim = kDimension;
  static constexpr int kRowFragments = kFragments;  // of 16 rows, a warp
  static constexpr int kRows = kWarps * 16 * kFragments;
  static constexpr int kRowBytes = kDim * 2;
  static constexpr int kChunks = kDim / kChunkElements;
};

template <class Tile>
struct alignas(16) SharedTiles {
  uint8_t q[Tile::kRows * Tile::kRowBytes];
  uint8_t k[kTileTokens * Tile::kRowBytes];
  uint8_t v[kTileTokens * Tile::kRowBytes];
};

// Starts the copy of tokens begin … begin + kTileTokens - 1, zeros from `end` on.
template <class Tile>
__device__ __forceinline__ void CopyTile(const Source& source, int begin, int end, uint32_t to) {
  constexpr int kRowsAtOnce = kThreads / Tile::kChunks;
  static_assert(kRowsAtOnce % 8 == 0);  // a thread's rows share one swizzle
  const int chunk = threadIdx.x % Tile::kChunks;
  const int row = threadIdx.x / Tile::kChunks;
  to += ChunkOffset<Tile::kRowBytes>(row, chunk);
  const bool in_one_place =
      begin >= source.packed_tokens || begin + kTileTokens <= source.packed_tokens;
  if (in_one_place && begin + kTileTokens <= end) {
    const __nv_bfloat16* from = source.Row(begin + row) + chunk * kChunkElements;
#pragma unroll
    for (int r = 0; r < kTileTokens; r += kRowsAtOnce) {
      CopyAsync16(to + r * Tile::kRowBytes, from, 16);
      from += kRowsAtOnce * source.stride;
    }
    return;
  }
#pragma unroll 1
  for (int r = 0; r < kTileTokens; r += kRowsAtOnce) {
    const int token = begin + row + r;
    const bool valid = token < end;
    const __nv_bfloat16* from = source.Row(valid ? token : begin) + chunk * kChunkElements;
    CopyAsync16(to + r * Tile::kRowBytes, from, valid ? 16 : 0);
  }
}

template <class Tile>
__device__ __forceinline__ void StoreQueries(const AttentionTables& tables, const TableSequence& s,
                                             int first_row, int kv_head, uint8_t* q) {
  const int num_rows = s.num_queries * tables.group;
  for (int u = threadIdx.x; u < Tile::kRows * Tile::kChunks; u += kThreads) {
    const int row = u / Tile::kChunks;
    const int chunk = u % Tile::kChunks;
    uint4 packed = {0, 0, 0, 0};
    if (first_row + row < num_rows) {
      const auto* from = reinterpret_cast<const float4*>(
          s.q + QueryOffset(tables, first_row + row, kv_head) + chunk * kChunkElements);
      const float4 a = from[0];
      const float4 b = from[1];
      packed = {PackBFloat16(a.x, a.y), PackBFloat16(a.z, a.w), PackBFloat16(b.x, b.y),
                PackBFloat16(b.z, b.w)};
    }
    *reinterpret_cast<uint4*>(q + ChunkOffset<Tile::kRowBytes>(row, chunk)) = packed;
  }
}

// What a warp keeps of its rows: lane 4g+c holds rows g and g+8 of each fragment.
template <class Tile>
struct Rows {
  float sums[Tile::kRowFragments][Tile::kDim / 8][4];
  SoftmaxState state[Tile::kRowFragments][2];
  int limit[Tile::kRowFragments][2];
};

template <class Tile>
__device__ __forceinline__ void ScoreTile(uint32_t q, uint32_t k, int lane,
                                          float (&scores)[Tile::kRowFragments][8][4]) {
  const int q_row = threadIdx.x / kWarp * 16 * Tile::kRowFragments + (lane & 15);
  const int k_row = (lane & 7) + ((lane >> 4) << 3);
#pragma unroll
  for (int kk = 0; kk < Tile::kDim / 16; ++kk) {
    uint32_t queries[Tile::kRowFragments][4];
#pragma unroll
    for (int f = 0; f < Tile::kRowFragments; ++f) {
      LoadMatrix4(queries[f],
                  q + ChunkOffset<Tile::kRowBytes>(q_row + 16 * f, 2 * kk + (lane >> 4)));
    }
#pragma unroll
    for (int n = 0; n < kTileTokens / 16; ++n) {
      uint32_t keys[4];
      LoadMatrix4(keys,
                  k + ChunkOffset<Tile::kRowBytes>(k_row + 16 * n, 2 * kk + ((lane >> 3) & 1)));
#pragma unroll
      for (int f = 0; f < Tile::kRowFragments; ++f) {
        MmaBFloat16(scores[f][2 * n], queries[f], {keys[0], keys[1]});
        MmaBFloat16(scores[f][2 * n + 1], queries[f], {keys[2], keys[3]});
      }
    }
  }
}

template <class Tile>
__device__ __forceinline__ void MaskTile(const Rows<Tile>& rows, int token, int lane,
                                         float (&scores)[Tile::kRowFragments][8][4]) {
#pragma unroll
  for (int f = 0; f < Tile::kRowFragments; ++f) {
#pragma unroll
    for (int n = 0; n < kTileTokens / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = token + 8 * n + 2 * (lane % 4) + i % 2;
        if (at >= rows.limit[f][i / 2]) scores[f][n][i] = -INFINITY;
      }
    }
  }
}

template <class Tile>
__device__ __forceinline__ void WeighTile(Rows<Tile>& rows, float scale,
                                          float (&scores)[Tile::kRowFragments][8][4]) {
#pragma unroll
  for (int f = 0; f < Tile::kRowFragments; ++f) {
    const float low = Reweigh<0>(scores[f], scale, rows.state[f][0]);
    const float high = Reweigh<1>(scores[f], scale, rows.state[f][1]);
    ScaleRows(rows.sums[f], low, high);
  }
}

template <class Tile>
__device__ __forceinline__ void AddTile(Rows<Tile>& rows, uint32_t v, int lane,
                                        const float (&weights)[Tile::kRowFragments][8][4]) {
  const int v_row = lane & 15;
#pragma unroll
  for (int t = 0; t < kTileTokens / 16; ++t) {
    uint32_t a[Tile::kRowFragments][4];
#pragma unroll
    for (int f = 0; f < Tile::kRowFragments; ++f) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        a[f][2 * j] = PackBFloat16(weights[f][2 * t + j][0], weights[f][2 * t + j][1]);
        a[f][2 * j + 1] = PackBFloat16(weights[f][2 * t + j][2], weights[f][2 * t + j][3]);
      }
    }
#pragma unroll
    for (int n = 0; n < Tile::kDim / 16; ++n) {
      uint32_t values[4];
      LoadMatrix4Transposed(values,
                            v + ChunkOffset<Tile::kRowBytes>(v_row + 16 * t, 2 * n + (lane >> 4)));
#pragma unroll
      for (int f = 0; f < Tile::kRowFragments; ++f) {
        MmaBFloat16(rows.sums[f][2 * n], a[f], {values[0], values[1]});
        MmaBFloat16(rows.sums[f][2 * n + 1], a[f], {values[2], values[3]});
      }
    }
  }
}

// Non-finite values that not every row sees are added where they are seen, then zeroed. By all
// threads of the block.
template <class Tile>
__device__ __forceinline__ void IsolateNonFinite(Rows<Tile>& rows, uint8_t* v, int token) {
  bool any = false;
  for (int u = threadIdx.x; u < kTileTokens * Tile::kChunks; u += kThreads) {
    any |= HasNonFinite(reinterpret_cast<const uint4*>(v)[u]);
  }
  if (!__syncthreads_or(any)) return;
#pragma unroll
  for (int f = 0; f < Tile::kRowFragments; ++f) {
    AddNonFinite<Tile::kRowBytes>(v, kTileTokens, token, rows.limit[f][0], rows.limit[f][1],
                                  rows.sums[f]);
  }
  __syncthreads();
  for (int u = threadIdx.x; u < kTileTokens * Tile::kChunks; u += kThreads) {
    auto* chunk = reinterpret_cast<uint4*>(v) + u;
    *chunk = FiniteOrZero(*chunk);
  }
  __syncthreads();
}

template <class Tile>
__device__ __forceinline__ void StoreRows(const AttentionTables& tables, const TableSequence& s,
                                          const TableItem& item, int kv_head, int lane,
                                          Rows<Tile>& rows) {
  const int rows_end = s.num_queries * tables.group;
  const bool partial = s.num_splits > 1;
#pragma unroll
  for (int f = 0; f < Tile::kRowFragments; ++f) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const SoftmaxState& state = rows.state[f][half];
      const float weight_sum = SumOverQuad(state.weight_sum);
      const int row = item.first_row + threadIdx.x / kWarp * 16 * Tile::kRowFragments + 16 * f +
                      8 * half + lane / 4;
      if (row >= rows_end) continue;
      const int64_t partial_row = PartialRow(tables, s, item.split, kv_head, row);
      const float factor = partial ? 1.0f : InverseWeight(weight_sum);
      float* out = partial ? tables.partial_out + partial_row * Tile::kDim
                           : s.out + QueryOffset(tables, row, kv_head);
      if (partial && lane % 4 == 0) tables.partial_state[partial_row] = {state.largest, weight_sum};
#pragma unroll
      for (int n = 0; n < Tile::kDim / 8; ++n) {
        *reinterpret_cast<float2*>(out + 8 * n + 2 * (lane % 4)) = {
            rows.sums[f][n][2 * half] * factor, rows.sums[f][n][2 * half + 1] * factor};
      }
    }
  }
}

template <class Tile>
__global__ void __launch_bounds__(kThreads) PrefillKernel(AttentionTables tables) {
  extern __shared__ __align__(16) uint8_t bytes[];
  auto& shared = *reinterpret_cast<SharedTiles<Tile>*>(bytes);
  const uint32_t q = SharedAddress(shared.q);
  const uint32_t k = SharedAddress(shared.k);
  const uint32_t v = SharedAddress(shared.v);
  const int lane = threadIdx.x % kWarp;
  const TableItem item = tables.items[blockIdx.x];
  const TableSequence s = tables.sequences[item.sequence];
  const int kv_head = blockIdx.y;
  const int last_row = min(item.first_row + Tile::kRows, s.num_queries * tables.group) - 1;
  const TokenRange range = RangeOf(s, item.split, LimitOf(s, last_row / tables.group));
  // Tiles that end at or before this token are seen whole by every row.
  const int whole = min(LimitOf(s, item.first_row / tables.group), range.end);
  const TableView& local = tables.views[s.first_view + s.num_views - 1];
  const Source keys = SourceOf(tables, s, tables.packed_k, local.k, kv_head);
  const Source values = SourceOf(tables, s, tables.packed_v, local.v, kv_head);

  Rows<Tile> rows;
#pragma unroll
  for (int f = 0; f < Tile::kRowFragments; ++f) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = item.first_row + threadIdx.x / kWarp * 16 * Tile::kRowFragments + 16 * f +
                      8 * half + lane / 4;
      rows.limit[f][half] = min(LimitOf(s, min(row, last_row) / tables.group), range.end);
    }
#pragma unroll
    for (int n = 0; n < Tile::kDim / 8; ++n) {
      rows.sums[f][n][0] = rows.sums[f][n][1] = rows.sums[f][n][2] = rows.sums[f][n][3] = 0.0f;
    }
  }
  if (range.begin < range.end) CopyTile<Tile>(keys, range.begin, range.end, k);
  CommitCopies();
  StoreQueries<Tile>(tables, s, item.first_row, kv_head, shared.q);
  for (int token = range.begin; token < range.end; token += kTileTokens) {
    WaitForCopies<0>();
    __syncthreads();  // K has come, the tile before has been used up
    CopyTile<Tile>(values, token, range.end, v);
    CommitCopies();
    float scores[Tile::kRowFragments][8][4] = {};
    ScoreTile<Tile>(q, k, lane, scores);
    WaitForCopies<0>();
    __syncthreads();  // V has come, K has been used up
    if (token + kTileTokens < range.end) {
      CopyTile<Tile>(keys, token + kTileTokens, range.end, k);
    }
    CommitCopies();
    const bool masked = token + kTileTokens > whole;
    if (masked) MaskTile<Tile>(rows, token, lane, scores);
    WeighTile<Tile>(rows, tables.scale * kLog2E, scores);
    if (masked) IsolateNonFinite<Tile>(rows, shared.v, token);
    AddTile<Tile>(rows, v, lane, scores);
  }
  StoreRows<Tile>(tables, s, item, kv_head, lane, rows);
}

template <int kDim>
cudaError_t Launch(const AttentionTables& tables, int num_items, cudaStream_t stream) {
  using Tile = PrefillTile<kDim, kPrefillRowsTensor / (16 * kWarps)>;
  constexpr int kSharedBytes = sizeof(SharedTiles<Tile>);
  const auto kernel = PrefillKernel<Tile>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  kernel<<<dim3(num_items, tables.num_kv_heads), kThreads, kSharedBytes, stream>>>(tables);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchPrefillTensor(const AttentionLaunch& launch, AttentionTables tables,
                                cudaStream_t stream) {
  if (launch.num_prefill_items == 0) return cudaSuccess;
  const auto* table = reinterpret_cast<const uint8_t*>(tables.sequences);
  tables.items = reinterpret_cast<const TableItem*>(table + launch.prefill_offset);
  if (launch.hopper) return LaunchPrefillHopper(launch, tables, stream);
  if (launch.shape.head_dim == 64) return Launch<64>(tables, launch.num_prefill_items, stream);
  return Launch<128>(tables, launch.num_prefill_items, stream);
}

}  // namespace msa::kernels::cuda

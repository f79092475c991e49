// Decode on tensor cores: at most 16 rows of (query, head of the group) against one range of
// tokens. Bound by memory, so each warp streams tiles of 16 tokens of its own through its own ring
// of asynchronous copies, converts what is not bfloat16 in place, and no warp waits for another
// until their sums are merged at the end.
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/decode_convert.cuh"
#include "kernels/cuda/decode_ring.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/softmax.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTileTokens = kDecodeTileTokens;
constexpr int kStages = 3;

// What a warp keeps of its rows: lane 4g+c holds rows g and g+8.
template <int kDim>
struct Rows {
  uint32_t q[kDim / 16][4];
  float sums[kDim / 8][4];
  SoftmaxState state[2];
  int limit[2];
  int least_limit;  // of all rows
};

template <int kDim>
__device__ __forceinline__ void LoadQueries(const AttentionTables& tables, const TableSequence& s,
                                            int kv_head, int lane, Rows<kDim>& rows) {
  const int num_rows = s.num_queries * tables.group;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    const bool real = row < num_rows;
    rows.limit[half] = LimitOf(s, min(row, num_rows - 1) / tables.group);
    const float* q = s.q + (real ? QueryOffset(tables, row, kv_head) : 0);
#pragma unroll
    for (int kk = 0; kk < kDim / 16; ++kk) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const float2 x = *reinterpret_cast<const float2*>(q + 16 * kk + 8 * part + 2 * (lane % 4));
        rows.q[kk][2 * part + half] = real ? PackBFloat16(x.x, x.y) : 0;
      }
    }
  }
  rows.least_limit = LimitOf(s, 0);
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
    rows.sums[n][0] = rows.sums[n][1] = rows.sums[n][2] = rows.sums[n][3] = 0.0f;
  }
}

template <class Tile>
__device__ __forceinline__ void ScoreTile(const Rows<Tile::kDim>& rows, const Stage<Tile>& stage,
                                          int lane, float (&scores)[2][4]) {
  float odd[2][4] = {};  // a second chain of products hides their latency
  const uint32_t k = SharedAddress(stage.k);
  const int row = (lane & 7) + ((lane >> 4) << 3);
#pragma unroll
  for (int kk = 0; kk < Tile::kDim / 16; ++kk) {
    uint32_t keys[4];
    LoadMatrix4(keys, k + ChunkOffset<Tile::kRowBytes>(row, 2 * kk + ((lane >> 3) & 1)));
    MmaBFloat16(kk % 2 == 0 ? scores[0] : odd[0], rows.q[kk], {keys[0], keys[1]});
    MmaBFloat16(kk % 2 == 0 ? scores[1] : odd[1], rows.q[kk], {keys[2], keys[3]});
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    scores[0][i] += odd[0][i];
    scores[1][i] += odd[1][i];
  }
}

// Non-finite values that not every row sees are added where they are seen, then zeroed.
template <class Tile>
__device__ __forceinline__ void IsolateNonFinite(Rows<Tile::kDim>& rows, Stage<Tile>& stage,
                                                 int token, int lane) {
  constexpr int kChunks = Tile::kDim / kChunkElements;
  bool any = false;
  for (int u = lane; u < kTileTokens * kChunks; u += kWarp) {
    any |= HasNonFinite(*reinterpret_cast<const uint4*>(
        stage.v + ChunkOffset<Tile::kRowBytes>(u / kChunks, u % kChunks)));
  }
  if (!__any_sync(0xffffffffu, any)) return;
  AddNonFinite<Tile::kRowBytes>(stage.v, kTileTokens, token, rows.limit[0], rows.limit[1],
                                rows.sums);
  __syncwarp();
  for (int u = lane; u < kTileTokens * kChunks; u += kWarp) {
    auto* chunk =
        reinterpret_cast<uint4*>(stage.v + ChunkOffset<Tile::kRowBytes>(u / kChunks, u % kChunks));
    *chunk = FiniteOrZero(*chunk);
  }
  __syncwarp();
}

// Scores of masked tokens to -inf, others scaled to units of log 2.
template <class Tile>
__device__ __forceinline__ void MaskAndScale(const Rows<Tile::kDim>& rows, const Stage<Tile>& stage,
                                             int token, int end, float scale, int lane,
                                             float (&scores)[2][4]) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int column = 8 * j + 2 * (lane % 4);
    const float2 k_scale = *reinterpret_cast<const float2*>(stage.k_scales + column);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool seen = token + column + i % 2 < min(rows.limit[i / 2], end);
      scores[j][i] =
          seen ? scores[j][i] * (scale * (i % 2 == 0 ? k_scale.x : k_scale.y)) : -INFINITY;
    }
  }
}

template <class Tile>
__device__ __forceinline__ void AttendTile(Rows<Tile::kDim>& rows, Stage<Tile>& stage, int token,
                                           int end, float scale, int lane) {
  Convert(stage, lane);
  float scores[2][4] = {};
  ScoreTile(rows, stage, lane, scores);
  MaskAndScale(rows, stage, token, end, scale, lane, scores);
  const float low = Reweigh<0>(scores, rows.state[0]);
  const float high = Reweigh<1>(scores, rows.state[1]);
  if (__any_sync(0xffffffffu, low != 1.0f || high != 1.0f)) ScaleRows(rows.sums, low, high);
  if (rows.least_limit < min(token + kTileTokens, end)) {
    IsolateNonFinite(rows, stage, token, lane);
  }
  uint32_t weights[4];
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int column = 8 * j + 2 * (lane % 4);
    const float2 scales = *reinterpret_cast<const float2*>(stage.v_scales + column);
    float scaled[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Not 0 · NaN where a row does not see a row whose scale is NaN.
      const bool seen = token + column + i % 2 < min(rows.limit[i / 2], end);
      scaled[i] = seen ? scores[j][i] * (i % 2 == 0 ? scales.x : scales.y) : 0.0f;
    }
    weights[2 * j] = PackBFloat16(scaled[0], scaled[1]);
    weights[2 * j + 1] = PackBFloat16(scaled[2], scaled[3]);
  }
  const uint32_t v = SharedAddress(stage.v);
  const int row = lane & 15;
#pragma unroll
  for (int n = 0; n < Tile::kDim / 16; ++n) {
    uint32_t values[4];
    LoadMatrix4Transposed(values, v + ChunkOffset<Tile::kRowBytes>(row, 2 * n + (lane >> 4)));
    MmaBFloat16(rows.sums[2 * n], weights, {values[0], values[1]});
    MmaBFloat16(rows.sums[2 * n + 1], weights, {values[2], values[3]});
  }
}

// The warps' sums, in shared memory once their rings are done with.
template <int kDim>
struct Merge {
  float sums[kWarps][kTileTokens][kDim];
  float2 states[kWarps][kTileTokens];
};

template <int kDim>
__device__ __forceinline__ void Deposit(Rows<kDim>& rows, int warp, int lane, Merge<kDim>& merge) {
  const int column = 2 * (lane % 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    const float weight_sum = SumOverQuad(rows.state[half].weight_sum);
    if (lane % 4 == 0) merge.states[warp][row] = {rows.state[half].largest, weight_sum};
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<float2*>(&merge.sums[warp][row][8 * n + column]) = {
          rows.sums[n][2 * half], rows.sums[n][2 * half + 1]};
    }
  }
}

template <int kDim>
__device__ __forceinline__ void Withdraw(const AttentionTables& tables, const TableSequence& s,
                                         int split, int kv_head, const Merge<kDim>& merge) {
  const int num_rows = s.num_queries * tables.group;
  const bool partial = s.num_splits > 1;
  for (int i = threadIdx.x; i < num_rows * kDim; i += kThreads) {
    const int row = i / kDim;
    const int d = i % kDim;
    float largest = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, merge.states[w][row].x);
    const float base = largest == -INFINITY ? 0.0f : largest;
    float sum = 0.0f;
    float weight_sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float factor = PowerOf2(merge.states[w][row].x - base);
      sum += factor * merge.sums[w][row][d];
      weight_sum += factor * merge.states[w][row].y;
    }
    if (partial) {
      const int64_t partial_row = PartialRow(tables, s, split, kv_head, row);
      tables.partial_out[partial_row * kDim + d] = sum;
      if (d == 0) tables.partial_state[partial_row] = {largest, weight_sum};
    } else {
      s.out[QueryOffset(tables, row, kv_head) + d] = sum * InverseWeight(weight_sum);
    }
  }
}

template <class Tile>
__global__ void __launch_bounds__(kThreads) DecodeKernel(AttentionTables tables) {
  extern __shared__ __align__(16) uint8_t shared[];
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  auto* stages = reinterpret_cast<Stage<Tile>*>(shared) + warp * kStages;
  const TableItem item = tables.items[blockIdx.x];
  const TableSequence s = tables.sequences[item.sequence];
  const int kv_head = blockIdx.y;
  const TokenRange range = RangeOf(s, item.split, LimitOf(s, s.num_queries - 1));
  const TableView* views = tables.views + s.first_view;
  Loader loader = {ViewCursor(views), views + s.num_views, tables.num_kv_heads,
                   kv_head,           range.end,           lane};
  constexpr int kStep = kWarps * kTileTokens;
  const int first = range.begin + warp * kTileTokens;
  Rows<Tile::kDim> rows;
  LoadQueries(tables, s, kv_head, lane, rows);
  // The ring begins kStages - 1 tiles early, so that a tile's copy has one place in the code.
  int filled = 0;
  int used = 0;
#pragma unroll 1
  for (int token = first - (kStages - 1) * kStep; token < range.end; token += kStep) {
    if (token >= first) {
      WaitForCopies<kStages - 2>();
      __syncwarp();
    }
    const int next = token + (kStages - 1) * kStep;
    if (next < range.end) LoadTile(loader, stages[filled], next);
    CommitCopies();
    filled = filled == kStages - 1 ? 0 : filled + 1;
    if (token < first) continue;
    AttendTile(rows, stages[used], token, range.end, tables.scale * kLog2E, lane);
    used = used == kStages - 1 ? 0 : used + 1;
  }
  WaitForCopies<0>();
  __syncthreads();
  auto& merge = *reinterpret_cast<Merge<Tile::kDim>*>(shared);
  Deposit(rows, warp, lane, merge);
  __syncthreads();
  Withdraw(tables, s, item.split, kv_head, merge);
}

template <int kDim, int kBytes>
cudaError_t Launch(const AttentionTables& tables, int num_items, cudaStream_t stream) {
  using Tile = DecodeTile<kDim, kBytes>;
  constexpr int kSharedBytes = kWarps * kStages * sizeof(Stage<Tile>);
  static_assert(sizeof(Merge<kDim>) <= kSharedBytes);
  const auto kernel = DecodeKernel<Tile>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  kernel<<<dim3(num_items, tables.num_kv_heads), kThreads, kSharedBytes, stream>>>(tables);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchDecodeTensor(const AttentionLaunch& launch, AttentionTables tables,
                               cudaStream_t stream) {
  if (launch.num_decode_items == 0) return cudaSuccess;
  const auto* table = reinterpret_cast<const uint8_t*>(tables.sequences);
  tables.items = reinterpret_cast<const TableItem*>(table + launch.decode_offset);
  const bool wide = launch.decode_element_bytes == 4;
  if (launch.shape.head_dim == 64) {
    return wide ? Launch<64, 4>(tables, launch.num_decode_items, stream)
                : Launch<64, 2>(tables, launch.num_decode_items, stream);
  }
  return wide ? Launch<128, 4>(tables, launch.num_decode_items, stream)
              : Launch<128, 2>(tables, launch.num_decode_items, stream);
}

}  // namespace msa::kernels::cuda

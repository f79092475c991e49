// Decode on tensor cores: one query a sequence, the query heads of a KV head against one range of
// tokens. Bound by memory: no shared memory on the way, each warp streams units of 16 tokens of its
// own into registers, the next unit's K under this one's softmax and its V under the next scores.
// Tokens (then dimensions) are the rows of the products and heads the columns, of which there are
// eight: a small group wastes half as much as with heads as rows.
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/decode_rows.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/softmax.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTileHeads = 8;

// kHeadTiles: of eight query heads.
template <int kDimension, int kElementBytes, int kHeads>
struct DecodeShape {
  static constexpr int kDim = kDimension;
  static constexpr int kBytes = kElementBytes;
  static constexpr int kHeadTiles = kHeads;
  static constexpr int kKeyChunks = kDim / 32;
  static constexpr int kValueChunks = kDim / 64;
  static constexpr int kValueTiles = kDim / 16;
  // Blocks a multiprocessor that leave the registers to hold a unit without spilling.
  static constexpr int kBlocks = kBytes * kDim * kHeadTiles <= 128 ? 4
                                 : kBytes * kHeadTiles == 2        ? 3
                                                                   : 2;
};

// What a lane keeps: of q the columns that it reads of K; sums of dimensions 64i+8g+2e and the next
// one (tile 4i+e) for heads 2c and 2c+1 of each tile of heads.
template <class Shape>
struct State {
  uint32_t q[Shape::kHeadTiles][Shape::kKeyChunks][4];
  float sums[Shape::kHeadTiles][Shape::kValueTiles][4];
  float largest[Shape::kHeadTiles][2];
  float weight_sum[Shape::kHeadTiles][2];  // of this lane's tokens
};

template <class Shape>
__device__ __forceinline__ void Begin(const float* q, int group, int lane, State<Shape>& state) {
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
    const int head = kTileHeads * h + lane / 4;
#pragma unroll
    for (int j = 0; j < Shape::kKeyChunks; ++j) {
      const auto* from = reinterpret_cast<const float4*>(
          q + (head < group ? head : 0) * Shape::kDim + 32 * j + 8 * (lane % 4));
      const float4 a = from[0];
      const float4 b = from[1];
      const bool real = head < group;
      state.q[h][j][0] = real ? PackBFloat16(a.x, a.y) : 0;
      state.q[h][j][1] = real ? PackBFloat16(a.z, a.w) : 0;
      state.q[h][j][2] = real ? PackBFloat16(b.x, b.y) : 0;
      state.q[h][j][3] = real ? PackBFloat16(b.z, b.w) : 0;
    }
#pragma unroll
    for (int m = 0; m < Shape::kValueTiles; ++m) {
      state.sums[h][m][0] = state.sums[h][m][1] = state.sums[h][m][2] = state.sums[h][m][3] = 0.0f;
    }
    state.largest[h][0] = state.largest[h][1] = -INFINITY;
    state.weight_sum[h][0] = state.weight_sum[h][1] = 0.0f;
  }
}

template <class Shape>
using KeyChunks = RawChunk<Shape::kBytes>[2][Shape::kKeyChunks];
template <class Shape>
using ValueChunks = RawChunk<Shape::kBytes>[4][Shape::kValueChunks];

// scores: tokens g (0, 1) and g+8 (2, 3) for heads 2c and 2c+1.
template <class Shape>
__device__ __forceinline__ void Score(const State<Shape>& state, const KeyChunks<Shape>& keys,
                                      float (&scores)[Shape::kHeadTiles][4]) {
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
    float odd[4] = {};  // a second chain of products hides their latency
#pragma unroll
    for (int j = 0; j < Shape::kKeyChunks; ++j) {
      const uint4 low = keys[0][j].part[0];
      const uint4 high = keys[1][j].part[0];
      const uint32_t first[4] = {low.x, high.x, low.y, high.y};
      const uint32_t second[4] = {low.z, high.z, low.w, high.w};
      MmaBFloat16(scores[h], first, {state.q[h][j][0], state.q[h][j][1]});
      MmaBFloat16(odd, second, {state.q[h][j][2], state.q[h][j][3]});
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[h][i] += odd[i];
  }
}

__device__ __forceinline__ float MaxOverTokens(float x) {
#pragma unroll
  for (int lanes = 4; lanes < kWarp; lanes *= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  }
  return x;
}
__device__ __forceinline__ float SumOverTokens(float x) {
#pragma unroll
  for (int lanes = 4; lanes < kWarp; lanes *= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

// Scores become weights; earlier sums are rescaled when a larger score has come.
template <class Shape>
__device__ __forceinline__ void Weigh(State<Shape>& state, float (&scores)[Shape::kHeadTiles][4]) {
  bool rescale = false;
  float factors[Shape::kHeadTiles][2];
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float earlier = state.largest[h][i];
      const float largest = fmaxf(earlier, MaxOverTokens(fmaxf(scores[h][i], scores[h][i + 2])));
      const float base = largest == -INFINITY ? 0.0f : largest;
      factors[h][i] = PowerOf2(earlier - base);
      scores[h][i] = PowerOf2(scores[h][i] - base);
      scores[h][i + 2] = PowerOf2(scores[h][i + 2] - base);
      state.weight_sum[h][i] =
          state.weight_sum[h][i] * factors[h][i] + (scores[h][i] + scores[h][i + 2]);
      state.largest[h][i] = largest;
      rescale |= factors[h][i] != 1.0f;
    }
  }
  if (!__any_sync(0xffffffffu, rescale)) return;
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
#pragma unroll
    for (int m = 0; m < Shape::kValueTiles; ++m) {
      state.sums[h][m][0] *= factors[h][0];
      state.sums[h][m][1] *= factors[h][1];
      state.sums[h][m][2] *= factors[h][0];
      state.sums[h][m][3] *= factors[h][1];
    }
  }
}

// An 8 × 8 matrix of 16-bit elements, transposed among the lanes.
__device__ __forceinline__ uint32_t Transpose(uint32_t rows) {
  uint32_t columns;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(columns) : "r"(rows));
  return columns;
}

template <class Shape>
__device__ __forceinline__ void Add(State<Shape>& state, const ValueChunks<Shape>& values,
                                    const float (&weights)[Shape::kHeadTiles][4]) {
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
    const uint2 b = {Transpose(PackBFloat16(weights[h][0], weights[h][1])),
                     Transpose(PackBFloat16(weights[h][2], weights[h][3]))};
#pragma unroll
    for (int m = 0; m < Shape::kValueTiles; ++m) {
      uint32_t words[4];
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const uint4& x = values[t][m / 4].part[0];
        words[t] = m % 4 == 0 ? x.x : m % 4 == 1 ? x.y : m % 4 == 2 ? x.z : x.w;
      }
      const uint32_t a[4] = {
          __byte_perm(words[0], words[1], 0x5410), __byte_perm(words[0], words[1], 0x7632),
          __byte_perm(words[2], words[3], 0x5410), __byte_perm(words[2], words[3], 0x7632)};
      MmaBFloat16(state.sums[h][m], a, b);
    }
  }
}

// Rows that stand in for tokens beyond the unit: their weight is 0, and so must they be.
template <class Shape>
__device__ __forceinline__ void ZeroBeyond(int count, int lane, ValueChunks<Shape>& values) {
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    if (2 * (lane % 4) + t % 2 + t / 2 * 8 < count) continue;
#pragma unroll
    for (int j = 0; j < Shape::kValueChunks; ++j) values[t][j].part[0] = {0, 0, 0, 0};
  }
}

// The warps' sums, then the block's.
template <class Shape>
struct Merge {
  float sums[kWarps][kTileHeads * Shape::kHeadTiles][Shape::kDim];
  float2 states[kWarps][kTileHeads * Shape::kHeadTiles];
};

template <class Shape>
__device__ __forceinline__ void Deposit(const State<Shape>& state, int warp, int lane,
                                        Merge<Shape>& merge) {
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int head = kTileHeads * h + 2 * (lane % 4) + i;
      const float weight_sum = SumOverTokens(state.weight_sum[h][i]);
      if (lane < 4) merge.states[warp][head] = {state.largest[h][i], weight_sum};
#pragma unroll
      for (int m = 0; m < Shape::kValueTiles; ++m) {
        *reinterpret_cast<float2*>(
            &merge.sums[warp][head][m / 4 * 64 + lane / 4 * 8 + m % 4 * 2]) = {
            state.sums[h][m][i], state.sums[h][m][i + 2]};
      }
    }
  }
}

template <class Shape>
__device__ __forceinline__ void Withdraw(const AttentionTables& tables, const TableSequence& s,
                                         int split, int kv_head, const Merge<Shape>& merge) {
  constexpr int kDim = Shape::kDim;
  const bool partial = s.num_splits > 1;
  for (int i = threadIdx.x; i < tables.group * kDim; i += kThreads) {
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

template <class Shape>
__global__ void __launch_bounds__(kThreads, Shape::kBlocks) DecodeKernel(AttentionTables tables) {
  __shared__ Merge<Shape> merge;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const TableItem item = tables.items[blockIdx.x];
  const TableSequence s = tables.sequences[item.sequence];
  const int kv_head = blockIdx.y;
  const TokenRange range = RangeOf(s, item.split, LimitOf(s, 0));
  const TableView* views = tables.views + s.first_view;
  const int first = range.begin + warp * kUnitTokens;
  Walk walk = {ViewCursor(views),    views + s.num_views, first,
               kWarps * kUnitTokens, range.end,           first};
  const auto locate = [&](Unit unit) {
    return Locate(walk, unit, tables.num_kv_heads, kv_head, Shape::kDim,
                  walk.cursor.view.type == ElementType::kFloat32    ? 4
                  : walk.cursor.view.type == ElementType::kBFloat16 ? 2
                                                                    : 1,
                  lane);
  };
  State<Shape> state;
  KeyChunks<Shape> keys;
  ValueChunks<Shape> values;
  RowPointers rows;
  ElementType type = ElementType::kBFloat16;
  Unit unit = walk.Next();
  if (unit.count > 0) {
    rows = locate(unit);
    type = walk.cursor.view.type;
    LoadChunks<Shape::kBytes, 2, Shape::kKeyChunks, 32>(rows.k, 8 * (lane % 4), type, keys);
    LoadChunks<Shape::kBytes, 4, Shape::kValueChunks, 64>(rows.v, 8 * (lane / 4), type, values);
  }
  Begin(s.q + QueryOffset(tables, 0, kv_head), tables.group, lane, state);
  while (unit.count > 0) {
    const float k_scales[2] = {__shfl_sync(0xffffffffu, rows.k_scale, lane / 4),
                               __shfl_sync(0xffffffffu, rows.k_scale, lane / 4 + 8)};
    const float v_scales[2] = {__shfl_sync(0xffffffffu, rows.v_scale, lane / 4),
                               __shfl_sync(0xffffffffu, rows.v_scale, lane / 4 + 8)};
    WidenChunks(type, keys);
    float scores[Shape::kHeadTiles][4] = {};
    Score(state, keys, scores);
    const Unit next = walk.Next();
    const ElementType next_type = walk.cursor.view.type;
    if (next.count > 0) {
      rows = locate(next);
      LoadChunks<Shape::kBytes, 2, Shape::kKeyChunks, 32>(rows.k, 8 * (lane % 4), next_type, keys);
    }
#pragma unroll
    for (int h = 0; h < Shape::kHeadTiles; ++h) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool seen = lane / 4 + i / 2 * 8 < unit.count;
        scores[h][i] = seen ? scores[h][i] * (tables.scale * kLog2E * k_scales[i / 2]) : -INFINITY;
      }
    }
    Weigh(state, scores);
#pragma unroll
    for (int h = 0; h < Shape::kHeadTiles; ++h) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (lane / 4 + i / 2 * 8 < unit.count) scores[h][i] *= v_scales[i / 2];
      }
    }
    WidenChunks(type, values);
    if (unit.count < kUnitTokens) ZeroBeyond<Shape>(unit.count, lane, values);
    Add(state, values, scores);
    if (next.count > 0) {
      LoadChunks<Shape::kBytes, 4, Shape::kValueChunks, 64>(rows.v, 8 * (lane / 4), next_type,
                                                            values);
    }
    unit = next;
    type = next_type;
  }
  Deposit(state, warp, lane, merge);
  __syncthreads();
  Withdraw(tables, s, item.split, kv_head, merge);
}

template <class Shape>
cudaError_t Launch(const AttentionTables& tables, int num_items, cudaStream_t stream) {
  const dim3 grid(num_items, tables.num_kv_heads);
  DecodeKernel<Shape><<<grid, kThreads, 0, stream>>>(tables);
  return cudaGetLastError();
}

template <int kDim, int kBytes>
cudaError_t LaunchHeads(const AttentionTables& tables, int num_items, cudaStream_t stream) {
  if (tables.group <= kTileHeads) {
    return Launch<DecodeShape<kDim, kBytes, 1>>(tables, num_items, stream);
  }
  return Launch<DecodeShape<kDim, kBytes, 2>>(tables, num_items, stream);
}

}  // namespace

cudaError_t LaunchDecodeTensor(const AttentionLaunch& launch, AttentionTables tables,
                               cudaStream_t stream) {
  const int num_items = launch.num_decode_items;
  if (num_items == 0) return cudaSuccess;
  const auto* table = reinterpret_cast<const uint8_t*>(tables.sequences);
  tables.items = reinterpret_cast<const TableItem*>(table + launch.decode_offset);
  const bool wide = launch.decode_element_bytes == 4;
  if (launch.shape.head_dim == 64) {
    return wide ? LaunchHeads<64, 4>(tables, num_items, stream)
                : LaunchHeads<64, 2>(tables, num_items, stream);
  }
  return wide ? LaunchHeads<128, 4>(tables, num_items, stream)
              : LaunchHeads<128, 2>(tables, num_items, stream);
}

}  // namespace msa::kernels::cuda

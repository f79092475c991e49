// Decode on tensor cores: one query a sequence, the query heads of a KV head against one range of
// tokens. Bound by memory: no shared memory on the way, each warp streams units of 16 tokens of its
// own into registers, the next unit's K under this one's softmax and its V under the next scores.
// Tokens (then dimensions) are the rows of the products and heads the columns, of which there are
// eight: a small group wastes half as much as with heads as rows.
#include "kernels/cuda/async.cuh"
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/decode_rows.cuh"
#include "kernels/cuda/decode_state.cuh"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/softmax.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kSharedViews = 48;

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

// Whether this block is the last of its sequence's and KV head's `num_items` to get here.
__device__ __forceinline__ bool IsLast(int32_t* counter, int num_items) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1) == num_items - 1;
    if (last) *counter = 0;  // for the next launch
    __threadfence();
  }
  __syncthreads();
  return last;
}

// The splits' partial sums, which other blocks have written, to the sequence's output: a warp takes
// a row, its lanes the states of 32 splits at a time and then kDim / 32 columns each.
template <class Shape>
__device__ __forceinline__ void MergeSplits(const AttentionTables& tables, const TableSequence& s,
                                            int kv_head, int warp, int lane) {
  constexpr int kPairs = Shape::kDim / 64;  // of columns, a lane
  const int64_t step = static_cast<int64_t>(tables.num_kv_heads) * tables.group;
  for (int row = warp; row < tables.group; row += kWarps) {
    const int64_t first = PartialRow(tables, s, 0, kv_head, row);
    float largest = -INFINITY;
    for (int split = lane; split < s.num_splits; split += kWarp) {
      largest = fmaxf(largest, __ldcg(&tables.partial_state[first + split * step]).x);
    }
    largest = WarpReduce(largest, [](float a, float b) { return fmaxf(a, b); });
    const float base = largest == -INFINITY ? 0.0f : largest;
    float2 sums[kPairs] = {};
    float weight_sum = 0.0f;
    for (int begin = 0; begin < s.num_splits; begin += kWarp) {
      const int count = min(kWarp, s.num_splits - begin);
      float factor = 0.0f;
      if (lane < count) {
        const float2 state = __ldcg(&tables.partial_state[first + (begin + lane) * step]);
        factor = PowerOf2(state.x - base);
        weight_sum += factor * state.y;
      }
      const auto* from = reinterpret_cast<const float2*>(tables.partial_out +
                                                         (first + begin * step) * Shape::kDim);
#pragma unroll 8
      for (int i = 0; i < count; ++i) {
        const float of_split = __shfl_sync(0xffffffffu, factor, i);
#pragma unroll
        for (int p = 0; p < kPairs; ++p) {
          const float2 x = __ldcg(from + i * step * (Shape::kDim / 2) + p * kWarp + lane);
          sums[p].x += of_split * x.x;
          sums[p].y += of_split * x.y;
        }
      }
    }
    const float inverse = InverseWeight(WarpSum(weight_sum));
    auto* out = reinterpret_cast<float2*>(s.out + QueryOffset(tables, row, kv_head));
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      out[p * kWarp + lane] = {sums[p].x * inverse, sums[p].y * inverse};
    }
  }
}

// The views of a sequence, in shared memory when they fit.
__device__ __forceinline__ const TableView* FetchViews(const AttentionTables& tables,
                                                       const TableItem& item) {
  __shared__ TableView shared_views[kSharedViews];
  constexpr int kParts = sizeof(TableView) / sizeof(uint4);
  const TableView* views = tables.views + item.first_view;
  if (item.num_views > kSharedViews) return views;
  for (int i = threadIdx.x; i < item.num_views * kParts; i += kThreads) {
    reinterpret_cast<uint4*>(shared_views)[i] = reinterpret_cast<const uint4*>(views)[i];
  }
  __syncthreads();
  return shared_views;
}

__device__ __forceinline__ int BytesOf(ElementType type) {
  return type == ElementType::kFloat32 ? 4 : type == ElementType::kBFloat16 ? 2 : 1;
}

// A unit on its way through a warp: its K and V are being read.
template <class Shape>
struct Stream {
  Unit unit;
  ElementType type = ElementType::kBFloat16;
  RowPointers rows;
  KeyChunks<Shape> keys;
  ValueChunks<Shape> values;

  // The walk's next unit.
  __device__ __forceinline__ void StartKeys(Walk& walk, const AttentionTables& tables, int kv_head,
                                            int lane) {
    unit = walk.Next();
    if (unit.count == 0) return;
    type = walk.cursor.view.type;
    rows = Locate(walk, unit, tables.num_kv_heads, kv_head, Shape::kDim, BytesOf(type), lane);
    LoadChunks<Shape::kBytes, 2, Shape::kKeyChunks, 32>(rows.k, 8 * (lane % 4), type, keys);
  }
  __device__ __forceinline__ void StartValues(int lane) {
    if (unit.count == 0) return;
    LoadChunks<Shape::kBytes, 4, Shape::kValueChunks, 64>(rows.v, 8 * (lane / 4), type, values);
  }
};

// Adds the stream's unit to the state and starts the walk's next.
template <class Shape>
__device__ __forceinline__ void Attend(const AttentionTables& tables, int kv_head, int lane,
                                       Walk& walk, Stream<Shape>& stream, State<Shape>& state) {
  const int token = lane / 4;
  const int count = stream.unit.count;
  const ElementType type = stream.type;
  const float k_scales[2] = {__shfl_sync(0xffffffffu, stream.rows.k_scale, token),
                             __shfl_sync(0xffffffffu, stream.rows.k_scale, token + 8)};
  const float v_scales[2] = {__shfl_sync(0xffffffffu, stream.rows.v_scale, token),
                             __shfl_sync(0xffffffffu, stream.rows.v_scale, token + 8)};
  float scores[Shape::kHeadTiles][4] = {};
  WidenChunks(type, stream.keys);
  Score(state, stream.keys, scores);
  stream.StartKeys(walk, tables, kv_head, lane);
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[h][i] = token + i / 2 * 8 < count
                         ? scores[h][i] * (tables.scale * kLog2E * k_scales[i / 2])
                         : -INFINITY;
    }
  }
  Weigh(state, scores);
#pragma unroll
  for (int h = 0; h < Shape::kHeadTiles; ++h) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (token + i / 2 * 8 < count) scores[h][i] *= v_scales[i / 2];
    }
  }
  WidenChunks(type, stream.values);
  if (count < kUnitTokens) ZeroBeyond<Shape>(count, lane, stream.values);
  Add(state, stream.values, scores);
  stream.StartValues(lane);
}

template <class Shape>
__global__ void __launch_bounds__(kThreads, Shape::kBlocks) DecodeKernel(AttentionTables tables) {
  __shared__ Merge<Shape> merge;
  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  const int kv_head = blockIdx.y;
  // The kernel before this one writes no table.
  const TableItem item = tables.items[blockIdx.x];
  if (item.sequence < 0) return;  // a table with room for more
  const TableSequence s = tables.sequences[item.sequence];
  const TableView* views = FetchViews(tables, item);
  const int limit = LimitOf(s, 0);
  const TokenRange range = RangeOf(s, item.split, limit, item.num_splits);
  const int first = range.begin + warp * kUnitTokens;
  Walk walk = {
      ViewCursor(views), views + item.num_views, first, kWarps * kUnitTokens, range.end, first};
  Stream<Shape> stream;
  // A batch that fills the chip leaves no room to the next kernel's blocks but in odd places.
  if (item.num_splits == 1) AllowDependents();
  // The kernel before this one writes the newest token's rows and no others.
  const bool early = walk.token + kUnitTokens < limit;
  if (!early) WaitForPrerequisites();
  stream.StartKeys(walk, tables, kv_head, lane);
  stream.StartValues(lane);
  if (early) WaitForPrerequisites();
  State<Shape> state;
  LoadQueries(s.q + QueryOffset(tables, 0, kv_head), tables.group, lane, state);
  int split_end = s.num_splits == 1 ? range.end : range.begin;
  const int split_tokens = SplitTokens(s);
  for (int i = 0; i < item.num_splits; ++i) {
    if (s.num_splits > 1) split_end += split_tokens;
    Clear(state);
    while (stream.unit.count > 0 && stream.unit.first < split_end) {
      Attend(tables, kv_head, lane, walk, stream, state);
    }
    if (i > 0) __syncthreads();  // the split before may still be read
    Deposit(state, warp, lane, merge);
    __syncthreads();
    Withdraw(tables, s, item.split + i, kv_head, merge);
  }
  if (s.num_splits == 1) return;
  int32_t* counter = tables.counters + item.sequence * tables.num_kv_heads + kv_head;
  if (IsLast(counter, item.num_items)) MergeSplits<Shape>(tables, s, kv_head, warp, lane);
}

template <class Shape>
cudaError_t Launch(const AttentionTables& tables, int num_items, cudaStream_t stream) {
  const dim3 grid(num_items, tables.num_kv_heads);
  return LaunchDependent(DecodeKernel<Shape>, grid, dim3(kThreads), stream, tables);
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
  const bool small = launch.shape.head_dim == 64;
  if (launch.decode_element_bytes == 4) {
    return small ? LaunchHeads<64, 4>(tables, num_items, stream)
                 : LaunchHeads<128, 4>(tables, num_items, stream);
  }
  return small ? LaunchHeads<64, 2>(tables, num_items, stream)
               : LaunchHeads<128, 2>(tables, num_items, stream);
}

}  // namespace msa::kernels::cuda

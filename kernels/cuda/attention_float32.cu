// Attention in float32 on CUDA cores: any head size, any mix of types. One block takes kRows rows
// of (query, head of the group) of one KV head against one range of tokens, kTokens at a time;
// scores by a register tile of kRows/16 × 4 a thread, weighted values by a tile of kRows/16 ×
// 4·kVectors.
#include "kernels/cuda/attention_device.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTokens = 32;
constexpr int kRowLanes = 16;    // threads along rows
constexpr int kColumnLanes = 8;  // threads along tokens, or along dimensions
constexpr int kWeightPitch = kTokens + 4;
// The weight of a token that a row does not see: its value is skipped, NaN or not.
constexpr float kUnseen = -1.0f;

template <int kRows, int kVectors>
struct Float32Tile {
  static constexpr int kRowsPerThread = kRows / kRowLanes;
  static constexpr int kDim = kVectors * 4 * kColumnLanes;  // head_dim rounded up
  // An odd number of 16-byte units: eight rows at one column fall into different banks.
  static constexpr int kPitch = kDim + 4;
  static constexpr int kFloats = (kRows + 2 * kTokens) * kPitch + kRows * kWeightPitch;
};

__device__ __forceinline__ float4 Load4(const float* x) {
  return *reinterpret_cast<const float4*>(x);
}

__device__ __forceinline__ void Accumulate(float& sum, float4 a, float4 b) {
  sum = fmaf(a.x, b.x, sum);
  sum = fmaf(a.y, b.y, sum);
  sum = fmaf(a.z, b.z, sum);
  sum = fmaf(a.w, b.w, sum);
}

__device__ __forceinline__ void AddScaled(float4& sum, float factor, float4 x) {
  sum.x = fmaf(factor, x.x, sum.x);
  sum.y = fmaf(factor, x.y, sum.y);
  sum.z = fmaf(factor, x.z, sum.z);
  sum.w = fmaf(factor, x.w, sum.w);
}

template <int kDim, int kPitch>
__device__ void LoadQueries(const AttentionTables& tables, const TableSequence& s, int first_row,
                            int num_rows, int kv_head, int rows_end, float* q) {
  for (int i = threadIdx.x; i < num_rows * kDim; i += kThreads) {
    const int row = i / kDim;
    const int d = i % kDim;
    const bool real = first_row + row < rows_end && d < tables.head_dim;
    q[row * kPitch + d] = real ? s.q[QueryOffset(tables, first_row + row, kv_head) + d] : 0.0f;
  }
}

// A whole tile of one view: each warp has the loads of all its rows of a matrix under way at once.
template <ElementType kType, int kDim, int kPitch>
__device__ __forceinline__ void LoadMatrix(const void* data, const float* scales, int64_t first_row,
                                           int num_kv_heads, int head_dim, float* to) {
  constexpr int kRowsEach = kTokens / (kThreads / kWarp);
  constexpr bool kScaled = kType == ElementType::kInt8 || kType == ElementType::kFloat8E4M3;
  const int warp = threadIdx.x / kWarp;
  for (int d = 4 * (static_cast<int>(threadIdx.x) % kWarp); d < kDim; d += 4 * kWarp) {
    float4 x[kRowsEach];
    float scale[kRowsEach];
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i) {
      const int64_t row = first_row + static_cast<int64_t>(warp * kRowsEach + i) * num_kv_heads;
      x[i] = d < head_dim ? FourAt<kType>(data, row * head_dim + d) : float4{0, 0, 0, 0};
      scale[i] = kScaled ? scales[row] : 1.0f;
    }
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i) {
      if (kScaled) {
        x[i] = {x[i].x * scale[i], x[i].y * scale[i], x[i].z * scale[i], x[i].w * scale[i]};
      }
      *reinterpret_cast<float4*>(to + (warp * kRowsEach + i) * kPitch + d) = x[i];
    }
  }
}

template <ElementType kType, int kDim, int kPitch>
__device__ __forceinline__ void LoadWholeTile(const AttentionTables& tables, const TableView& view,
                                              int kv_head, int begin, float* k, float* v) {
  const int64_t first =
      static_cast<int64_t>(begin - view.first_token) * tables.num_kv_heads + kv_head;
  LoadMatrix<kType, kDim, kPitch>(view.k, view.k_scales, first, tables.num_kv_heads,
                                  tables.head_dim, k);
  LoadMatrix<kType, kDim, kPitch>(view.v, view.v_scales, first, tables.num_kv_heads,
                                  tables.head_dim, v);
}

// A row at a time, a warp each: any type, any view, any alignment; zeros beyond `end`.
template <int kDim, int kPitch>
__device__ void LoadRows(const AttentionTables& tables, const TableView* views_end,
                         ViewCursor& cursor, int kv_head, int begin, int end, float* k, float* v) {
  const int lane = threadIdx.x % kWarp;
  for (int r = threadIdx.x / kWarp; r < kTokens; r += kThreads / kWarp) {
    const int token = begin + r;
    float* k_row = k + r * kPitch;
    float* v_row = v + r * kPitch;
    if (token >= end) {
      for (int d = lane; d < kDim; d += kWarp) k_row[d] = v_row[d] = 0.0f;
      continue;
    }
    cursor.Seek(token, views_end);
    const TableView& view = cursor.view;
    const int64_t row =
        static_cast<int64_t>(token - view.first_token) * tables.num_kv_heads + kv_head;
    const bool scaled = view.k_scales != nullptr;
    const float k_scale = scaled ? view.k_scales[row] : 1.0f;
    const float v_scale = scaled ? view.v_scales[row] : 1.0f;
#pragma unroll
    for (int d = lane; d < kDim; d += kWarp) {
      const bool real = d < tables.head_dim;
      const int64_t at = row * tables.head_dim + d;
      k_row[d] = real ? k_scale * ElementAt(view.k, view.type, at) : 0.0f;
      v_row[d] = real ? v_scale * ElementAt(view.v, view.type, at) : 0.0f;
    }
  }
}

// Rows begin … of K and V, widened; zeros beyond `end` and beyond head_dim.
template <int kDim, int kPitch>
__device__ __forceinline__ void LoadTile(const AttentionTables& tables, const TableView* views_end,
                                         ViewCursor& cursor, int kv_head, int begin, int end,
                                         float* k, float* v) {
  cursor.Seek(begin, views_end);
  const TableView& view = cursor.view;
  const auto aligned = reinterpret_cast<uintptr_t>(view.k) | reinterpret_cast<uintptr_t>(view.v);
  const bool whole = begin + kTokens <= min(end, view.first_token + view.num_tokens) &&
                     tables.head_dim % 4 == 0 && aligned % 16 == 0;
  if (whole && view.type == ElementType::kFloat32) {
    LoadWholeTile<ElementType::kFloat32, kDim, kPitch>(tables, view, kv_head, begin, k, v);
  } else if (whole && view.type == ElementType::kBFloat16) {
    LoadWholeTile<ElementType::kBFloat16, kDim, kPitch>(tables, view, kv_head, begin, k, v);
  } else if (whole && view.type == ElementType::kInt8) {
    LoadWholeTile<ElementType::kInt8, kDim, kPitch>(tables, view, kv_head, begin, k, v);
  } else if (whole && view.type == ElementType::kFloat8E4M3) {
    LoadWholeTile<ElementType::kFloat8E4M3, kDim, kPitch>(tables, view, kv_head, begin, k, v);
  } else {
    LoadRows<kDim, kPitch>(tables, views_end, cursor, kv_head, begin, end, k, v);
  }
}

// The state of one row, the same in its eight threads.
struct RowState {
  float largest = -INFINITY;
  float weight_sum = 0.0f;
};

// Scores of one row to weights; returns what earlier sums are multiplied by.
__device__ __forceinline__ float Reweigh(float (&scores)[4], const bool (&seen)[4],
                                         RowState& state) {
  float largest = state.largest;
#pragma unroll
  for (int j = 0; j < 4; ++j) largest = seen[j] ? fmaxf(largest, scores[j]) : largest;
#pragma unroll
  for (int lanes = kColumnLanes / 2; lanes > 0; lanes /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
  }
  const float base = largest == -INFINITY ? 0.0f : largest;
  const float factor = expf(state.largest - base);
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    scores[j] = seen[j] ? expf(scores[j] - base) : kUnseen;
    if (seen[j]) sum += scores[j];
  }
#pragma unroll
  for (int lanes = kColumnLanes / 2; lanes > 0; lanes /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  }
  state.largest = largest;
  state.weight_sum = state.weight_sum * factor + sum;
  return factor;
}

// Where a thread's register tiles lie.
struct Lanes {
  int row = threadIdx.x / kColumnLanes;
  int column = threadIdx.x % kColumnLanes;  // of tokens, or of dimensions
};

// Products of this thread's queries and keys.
template <int kMine, int kPitch>
__device__ __forceinline__ void ScoreTile(const float* q, const float* k, int head_dim, Lanes lanes,
                                          float (&scores)[kMine][4]) {
  for (int d = 0; d < head_dim; d += 4) {
    float4 keys[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      keys[j] = Load4(k + (lanes.column + kColumnLanes * j) * kPitch + d);
    }
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const float4 query = Load4(q + (lanes.row + kRowLanes * i) * kPitch + d);
#pragma unroll
      for (int j = 0; j < 4; ++j) Accumulate(scores[i][j], query, keys[j]);
    }
  }
}

// Weighted values of a tile to this thread's dimensions of its rows.
template <int kMine, int kVectors, int kPitch>
__device__ __forceinline__ void AddValues(const float* v, const float* weights, Lanes lanes,
                                          float4 (&sums)[kMine][kVectors]) {
  for (int t = 0; t < kTokens; ++t) {
    float4 values[kVectors];
#pragma unroll
    for (int c = 0; c < kVectors; ++c) {
      values[c] = Load4(v + t * kPitch + 4 * (lanes.column + kColumnLanes * c));
    }
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const float weight = weights[(lanes.row + kRowLanes * i) * kWeightPitch + t];
      if (weight < 0.0f) continue;
#pragma unroll
      for (int c = 0; c < kVectors; ++c) AddScaled(sums[i][c], weight, values[c]);
    }
  }
}

// A row's sums divided by its weights; of a split, as they are, with the state to merge them by.
template <int kVectors>
__device__ __forceinline__ void StoreRow(const AttentionTables& tables, const TableSequence& s,
                                         int split, int kv_head, int row, Lanes lanes,
                                         const RowState& state, const float4 (&sums)[kVectors]) {
  const bool partial = s.num_splits > 1;
  const int64_t partial_row = PartialRow(tables, s, split, kv_head, row);
  const float factor = partial ? 1.0f : InverseWeight(state.weight_sum);
  float* out = partial ? tables.partial_out + partial_row * tables.head_dim
                       : s.out + QueryOffset(tables, row, kv_head);
  if (partial && lanes.column == 0) {
    tables.partial_state[partial_row] = {state.largest, state.weight_sum};
  }
#pragma unroll
  for (int c = 0; c < kVectors; ++c) {
    const int d = 4 * (lanes.column + kColumnLanes * c);
    const float4 sum = sums[c];
    if (d < tables.head_dim) out[d] = sum.x * factor;
    if (d + 1 < tables.head_dim) out[d + 1] = sum.y * factor;
    if (d + 2 < tables.head_dim) out[d + 2] = sum.z * factor;
    if (d + 3 < tables.head_dim) out[d + 3] = sum.w * factor;
  }
}

template <int kRows, int kVectors>
__global__ void __launch_bounds__(kThreads) AttendFloat32Kernel(AttentionTables tables) {
  using Tile = Float32Tile<kRows, kVectors>;
  constexpr int kMine = Tile::kRowsPerThread;
  constexpr int kPitch = Tile::kPitch;
  extern __shared__ __align__(16) float shared[];
  float* q = shared;
  float* k = q + kRows * kPitch;
  float* v = k + kTokens * kPitch;
  float* weights = v + kTokens * kPitch;

  const TableItem item = tables.items[blockIdx.x];
  if (item.sequence < 0) return;  // a table with room for more
  const TableSequence s = tables.sequences[item.sequence];
  const int kv_head = blockIdx.y;
  const int rows_end = s.num_queries * tables.group;
  const int last_row = min(item.first_row + kRows, rows_end) - 1;
  const TokenRange range = RangeOf(s, item.split, LimitOf(s, last_row / tables.group));
  const TableView* views = tables.views + s.first_view;
  const TableView* views_end = views + s.num_views;
  ViewCursor cursor(views);

  const Lanes lanes;
  int limits[kMine];
  RowState states[kMine];
  float4 sums[kMine][kVectors];
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int row = min(item.first_row + lanes.row + kRowLanes * i, rows_end - 1);
    limits[i] = LimitOf(s, row / tables.group);
#pragma unroll
    for (int c = 0; c < kVectors; ++c) sums[i][c] = {0.0f, 0.0f, 0.0f, 0.0f};
  }
  LoadQueries<Tile::kDim, kPitch>(tables, s, item.first_row, kRows, kv_head, rows_end, q);

  for (int begin = range.begin; begin < range.end; begin += kTokens) {
    __syncthreads();  // the tile before may still be read
    LoadTile<Tile::kDim, kPitch>(tables, views_end, cursor, kv_head, begin, range.end, k, v);
    __syncthreads();
    float scores[kMine][4] = {};
    ScoreTile<kMine, kPitch>(q, k, tables.head_dim, lanes, scores);
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      bool seen[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int token = begin + lanes.column + kColumnLanes * j;
        seen[j] = token < min(limits[i], range.end);
        scores[i][j] *= tables.scale;
      }
      const float factor = Reweigh(scores[i], seen, states[i]);
#pragma unroll
      for (int c = 0; c < kVectors; ++c) {
        sums[i][c] = {sums[i][c].x * factor, sums[i][c].y * factor, sums[i][c].z * factor,
                      sums[i][c].w * factor};
      }
      float* row_weights = weights + (lanes.row + kRowLanes * i) * kWeightPitch;
#pragma unroll
      for (int j = 0; j < 4; ++j) row_weights[lanes.column + kColumnLanes * j] = scores[i][j];
    }
    __syncwarp();  // a row's weights are written and read by the same warp
    AddValues<kMine, kVectors, kPitch>(v, weights, lanes, sums);
    __syncwarp();
  }

#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int row = item.first_row + lanes.row + kRowLanes * i;
    if (row >= rows_end) continue;
    StoreRow<kVectors>(tables, s, item.split, kv_head, row, lanes, states[i], sums[i]);
  }
}

template <int kRows, int kVectors>
cudaError_t Launch(const AttentionTables& tables, int num_items, cudaStream_t stream) {
  if (num_items == 0) return cudaSuccess;
  constexpr int kBytes = Float32Tile<kRows, kVectors>::kFloats * sizeof(float);
  const auto kernel = AttendFloat32Kernel<kRows, kVectors>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(num_items, tables.num_kv_heads);
  kernel<<<grid, kThreads, kBytes, stream>>>(tables);
  return cudaGetLastError();
}

template <int kRows>
cudaError_t LaunchRows(const AttentionTables& tables, int num_items, cudaStream_t stream) {
  if (tables.head_dim <= 64) return Launch<kRows, 2>(tables, num_items, stream);
  if (tables.head_dim <= 128) return Launch<kRows, 4>(tables, num_items, stream);
  return Launch<kRows, 8>(tables, num_items, stream);
}

}  // namespace

cudaError_t LaunchFloat32(const AttentionLaunch& launch, AttentionTables tables,
                          cudaStream_t stream) {
  const auto* table = reinterpret_cast<const uint8_t*>(tables.sequences);
  tables.items = reinterpret_cast<const TableItem*>(table + launch.decode_offset);
  const cudaError_t error = LaunchRows<kDecodeRows>(tables, launch.num_decode_items, stream);
  if (error != cudaSuccess) return error;
  tables.items = reinterpret_cast<const TableItem*>(table + launch.prefill_offset);
  return LaunchRows<kPrefillRowsFloat32>(tables, launch.num_prefill_items, stream);
}

}  // namespace msa::kernels::cuda

// Decode on tensor cores: at most 16 rows of (query, head of the group) against one range of
// tokens. Bound by memory, so each warp streams tiles of 16 tokens of its own through its own ring
// of asynchronous copies, converts what is not bfloat16 in place, and no warp waits for another
// until their sums are merged at the end.
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/softmax.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTileTokens = 16;
constexpr int kStages = 3;

// kBytes: room for an element in a row, 2 or 4. Where it is 2, float32 rows are rounded on the way.
template <int kDimension, int kBytes>
struct DecodeTile {
  static constexpr int kDim = kDimension;
  static constexpr int kElementBytes = kBytes;
  static constexpr int kRowBytes = kDim * kBytes;
  static constexpr int kMatrixBytes = kTileTokens * kRowBytes;
};

// One tile of one warp in shared memory.
template <class Tile>
struct alignas(16) Stage {
  uint8_t k[Tile::kMatrixBytes];
  uint8_t v[Tile::kMatrixBytes];
  float k_scales[kTileTokens];
  float v_scales[kTileTokens];
  ElementType types[kTileTokens];  // as stored: kBFloat16 needs no conversion
  uint32_t converts;               // whether some row does
};

struct Loader {
  ViewCursor cursor;
  const TableView* views_end;
  int num_kv_heads;
  int kv_head;
  int end;
  int lane;
};

__device__ __forceinline__ const uint8_t* RowAt(const void* data, int64_t row, int bytes) {
  return static_cast<const uint8_t*>(data) + row * bytes;
}

// `rows` rows of one view from token `token` on to rows r … of the stage, kB bytes an element.
template <class Tile, int kB>
__device__ __forceinline__ void CopyRows(const Loader& loader, Stage<Tile>& stage, int token, int r,
                                         int rows) {
  constexpr int kRowSourceBytes = Tile::kDim * kB;
  constexpr int kChunks = kRowSourceBytes / kChunkBytes;
  const TableView& view = loader.cursor.view;
  const int64_t first =
      static_cast<int64_t>(token - view.first_token) * loader.num_kv_heads + loader.kv_head;
  const int64_t stride = static_cast<int64_t>(loader.num_kv_heads) * kRowSourceBytes;
  const uint8_t* k = RowAt(view.k, first, kRowSourceBytes);
  const uint8_t* v = RowAt(view.v, first, kRowSourceBytes);
  const uint32_t k_to = SharedAddress(stage.k);
  const uint32_t v_to = SharedAddress(stage.v);
#pragma unroll 16
  for (int u = loader.lane; u < rows * 2 * kChunks; u += kWarp) {
    const int chunk = u % kChunks;
    const bool is_v = u / kChunks % 2 != 0;
    const int row = u / (2 * kChunks);
    CopyAsync16((is_v ? v_to : k_to) + ChunkOffset<Tile::kRowBytes>(r + row, chunk),
                (is_v ? v : k) + row * stride + chunk * kChunkBytes, true);
  }
}

// Float32 rows where the ring has no room for them: rounded now, at the price of waiting for them.
template <class Tile>
__device__ __forceinline__ void RoundRows(const Loader& loader, Stage<Tile>& stage, int token,
                                          int r, int rows) {
  constexpr int kPairs = Tile::kDim / 2;
  const TableView& view = loader.cursor.view;
  for (int u = loader.lane; u < rows * kPairs; u += kWarp) {
    const int row = u / kPairs;
    const int pair = u % kPairs;
    const int64_t from =
        (static_cast<int64_t>(token + row - view.first_token) * loader.num_kv_heads +
         loader.kv_head) *
            kPairs +
        pair;
    const float2 k = static_cast<const float2*>(view.k)[from];
    const float2 v = static_cast<const float2*>(view.v)[from];
    const uint32_t to = ChunkOffset<Tile::kRowBytes>(r + row, pair / 4) + pair % 4 * 4;
    *reinterpret_cast<uint32_t*>(stage.k + to) = PackBFloat16(k.x, k.y);
    *reinterpret_cast<uint32_t*>(stage.v + to) = PackBFloat16(v.x, v.y);
  }
}

template <class Tile>
__device__ __forceinline__ void ZeroRows(const Loader& loader, Stage<Tile>& stage, int r) {
  constexpr int kWords = Tile::kRowBytes / kChunkBytes;
  for (int u = r * kWords + loader.lane; u < kTileTokens * kWords; u += kWarp) {
    reinterpret_cast<uint4*>(stage.k)[u] = {0, 0, 0, 0};
    reinterpret_cast<uint4*>(stage.v)[u] = {0, 0, 0, 0};
  }
  if (loader.lane >= r && loader.lane < kTileTokens) {
    stage.types[loader.lane] = ElementType::kBFloat16;
    stage.k_scales[loader.lane] = stage.v_scales[loader.lane] = 1.0f;
  }
}

// Starts the copies of up to `rows` rows of the cursor's view.
template <class Tile>
__device__ __forceinline__ bool LoadRun(const Loader& loader, Stage<Tile>& stage, int token, int r,
                                        int rows) {
  const TableView& view = loader.cursor.view;
  const bool scaled = view.k_scales != nullptr;
  ElementType type = view.type;
  if (type == ElementType::kBFloat16) {
    CopyRows<Tile, 2>(loader, stage, token, r, rows);
  } else if (type != ElementType::kFloat32) {
    CopyRows<Tile, 1>(loader, stage, token, r, rows);
  } else if (Tile::kElementBytes == 4) {
    CopyRows<Tile, 4>(loader, stage, token, r, rows);
  } else {
    RoundRows(loader, stage, token, r, rows);
    type = ElementType::kBFloat16;
  }
  if (loader.lane < rows) {
    const int64_t from =
        static_cast<int64_t>(token + loader.lane - view.first_token) * loader.num_kv_heads +
        loader.kv_head;
    stage.types[r + loader.lane] = type;
    if (scaled) {
      CopyAsync4(SharedAddress(&stage.k_scales[r + loader.lane]), view.k_scales + from);
      CopyAsync4(SharedAddress(&stage.v_scales[r + loader.lane]), view.v_scales + from);
    } else {
      stage.k_scales[r + loader.lane] = stage.v_scales[r + loader.lane] = 1.0f;
    }
  }
  return type != ElementType::kBFloat16;
}

// Starts the copies of tokens token … token + 15, zeros from the range's end on.
template <class Tile>
__device__ __forceinline__ void LoadTile(Loader& loader, Stage<Tile>& stage, int token) {
  const int rows = min(kTileTokens, loader.end - token);
  bool converts = false;
  loader.cursor.Seek(token, loader.views_end);
  int in_view = loader.cursor.view.first_token + loader.cursor.view.num_tokens - token;
  if (in_view >= kTileTokens && rows == kTileTokens) {
    converts = LoadRun(loader, stage, token, 0, kTileTokens);
  } else {
#pragma unroll 1
    for (int r = 0; r < rows;) {
      loader.cursor.Seek(token + r, loader.views_end);
      in_view = loader.cursor.view.first_token + loader.cursor.view.num_tokens - (token + r);
      const int run = min(in_view, rows - r);
      converts |= LoadRun(loader, stage, token + r, r, run);
      r += run;
    }
    ZeroRows(loader, stage, rows);
  }
  if (loader.lane == 0) stage.converts = converts ? 1 : 0;
}

// Four int8 to bfloat16, exactly: with the sign bit s and the other seven bits m of a byte,
// (128 + m) - (128 + 128 s), both halves of which are bfloat16 with their bits in plain sight.
__device__ __forceinline__ uint32_t WidenInt8Pair(uint32_t spread) {
  const uint32_t value = spread & 0xff7fff7fu;
  const uint32_t offset = spread & 0xff80ff80u;
  const __nv_bfloat162 result = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&value),
                                        *reinterpret_cast<const __nv_bfloat162*>(&offset));
  return *reinterpret_cast<const uint32_t*>(&result);
}

__device__ __forceinline__ uint2 WidenInt8(uint32_t bytes) {
  return {WidenInt8Pair(__byte_perm(bytes, 0x43434343u, 0x4140)),
          WidenInt8Pair(__byte_perm(bytes, 0x43434343u, 0x4342))};
}

__device__ __forceinline__ uint2 WidenFloat8(uint32_t bytes) {
  const auto low = static_cast<__nv_fp8x2_storage_t>(bytes & 0xffffu);
  const auto high = static_cast<__nv_fp8x2_storage_t>(bytes >> 16);
  const float2 a = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(low, __NV_E4M3)));
  const float2 b = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(high, __NV_E4M3)));
  return {PackBFloat16(a.x, a.y), PackBFloat16(b.x, b.y)};
}

// Four elements of a row from its raw bytes.
template <class Tile>
__device__ __forceinline__ uint2 ReadFour(const uint8_t* matrix, ElementType type, int row,
                                          int part) {
  if (type == ElementType::kFloat32) {
    if constexpr (Tile::kElementBytes == 4) {
      const float4 x =
          *reinterpret_cast<const float4*>(matrix + ChunkOffset<Tile::kRowBytes>(row, part));
      return {PackBFloat16(x.x, x.y), PackBFloat16(x.z, x.w)};
    }
  }
  if (type == ElementType::kBFloat16) {
    return *reinterpret_cast<const uint2*>(matrix + ChunkOffset<Tile::kRowBytes>(row, part / 2) +
                                           part % 2 * 8);
  }
  const uint32_t bytes = *reinterpret_cast<const uint32_t*>(
      matrix + ChunkOffset<Tile::kRowBytes>(row, part / 4) + part % 4 * 4);
  return type == ElementType::kInt8 ? WidenInt8(bytes) : WidenFloat8(bytes);
}

// Rows of a matrix to bfloat16 in place: all of eight rows' bytes are read before one is written.
template <class Tile>
__device__ __forceinline__ void ConvertMatrix(uint8_t* matrix, const ElementType* types, int lane) {
  constexpr int kParts = Tile::kDim / 4;
  constexpr int kRowsAtOnce = kWarp / kParts;
  constexpr int kSteps = 8;
  const int part = lane % kParts;
#pragma unroll
  for (int first = 0; first < kTileTokens; first += kSteps * kRowsAtOnce) {
    uint2 held[kSteps];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int row = first + i * kRowsAtOnce + lane / kParts;
      held[i] = ReadFour<Tile>(matrix, types[row], row, part);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      const int row = first + i * kRowsAtOnce + lane / kParts;
      *reinterpret_cast<uint2*>(matrix + ChunkOffset<Tile::kRowBytes>(row, part / 2) +
                                part % 2 * 8) = held[i];
    }
  }
}

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
    LoadMatrices(keys, k + ChunkOffset<Tile::kRowBytes>(row, 2 * kk + ((lane >> 3) & 1)));
    MultiplyAdd(kk % 2 == 0 ? scores[0] : odd[0], rows.q[kk], keys[0], keys[1]);
    MultiplyAdd(kk % 2 == 0 ? scores[1] : odd[1], rows.q[kk], keys[2], keys[3]);
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
  if (stage.converts != 0) {
    ConvertMatrix<Tile>(stage.k, stage.types, lane);
    ConvertMatrix<Tile>(stage.v, stage.types, lane);
    __syncwarp();
  }
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
    LoadMatricesTransposed(values, v + ChunkOffset<Tile::kRowBytes>(row, 2 * n + (lane >> 4)));
    MultiplyAdd(rows.sums[2 * n], weights, values[0], values[1]);
    MultiplyAdd(rows.sums[2 * n + 1], weights, values[2], values[3]);
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
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) {
    if (first + i * kStep < range.end) LoadTile(loader, stages[i], first + i * kStep);
    CommitCopies();
  }
  Rows<Tile::kDim> rows;
  LoadQueries(tables, s, kv_head, lane, rows);
  int stage = 0;
  for (int token = first; token < range.end; token += kStep) {
    WaitForCopies<kStages - 2>();
    __syncwarp();
    const int next = token + (kStages - 1) * kStep;
    const int next_stage = stage == 0 ? kStages - 1 : stage - 1;
    if (next < range.end) LoadTile(loader, stages[next_stage], next);
    CommitCopies();
    AttendTile(rows, stages[stage], token, range.end, tables.scale * kLog2E, lane);
    stage = stage == kStages - 1 ? 0 : stage + 1;
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

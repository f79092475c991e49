// Prefill with Hopper's warpgroup products, after FlashAttention-3 (arXiv 2407.08608): a block
// takes 128 rows of (query, head of the group) of one KV head. One warpgroup copies tiles of K and
// V, two compute on 64 rows each; a tile's scores are multiplied while the tile before is added up.
#include <algorithm>

#include "kernels/cuda/async.cuh"
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/prefill.cuh"
#include "kernels/cuda/softmax.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kGroupThreads = 128;  // a warpgroup
constexpr int kComputeGroups = 2;
constexpr int kComputeThreads = kComputeGroups * kGroupThreads;
constexpr int kThreads = kComputeThreads + kGroupThreads;
constexpr int kComputeWarps = kComputeThreads / kWarp;
constexpr int kGroupRows = 64;
constexpr int kRows = kComputeGroups * kGroupRows;
constexpr int kTileTokens = 128;
constexpr int kStages = 2;
constexpr int kTokenSteps = kTileTokens / 16;
// Of 65,536: 128 · 40 + 256 · 232.
constexpr int kCopyRegisters = 40;
constexpr int kComputeRegisters = 232;
constexpr int kAllBarrier = 1;         // of the computing threads
constexpr int kFirstGroupBarrier = 2;  // of one computing warpgroup, one id each
constexpr int kFirstTurnBarrier = 4;   // a computing warpgroup's turn to start products, likewise

template <int kDim>
struct SharedTiles {
  uint8_t q[kRows * kDim * 2];
  uint8_t k[kStages][kTileTokens * kDim * 2];
  uint8_t v[kStages][kTileTokens * kDim * 2];
  uint64_t k_full[kStages];
  uint64_t k_empty[kStages];
  uint64_t v_full[kStages];
  uint64_t v_empty[kStages];
};

// A position in the ring of stages: the stage and the parity of its barriers.
struct Ring {
  int stage = 0;
  int parity = 0;

  __device__ __forceinline__ void Next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// What both roles know of the block's work.
struct Work {
  TokenRange range;
  int kv_head;
  int first_row;
  int last_row;
  int split;
};

__device__ __forceinline__ Work WorkOf(const AttentionTables& tables, const TableSequence& s,
                                       const TableItem& item, int kv_head) {
  Work work;
  work.kv_head = kv_head;
  work.first_row = item.first_row;
  work.last_row = min(item.first_row + kRows, s.num_queries * tables.group) - 1;
  work.split = item.split;
  work.range = RangeOf(s, item.split, LimitOf(s, work.last_row / tables.group));
  return work;
}

template <int kDim>
__device__ __forceinline__ void CopyTile(const Source& source, int begin, int end, uint32_t to) {
  constexpr int kChunks = kDim / kChunkElements;
  constexpr int kRowsAtOnce = kGroupThreads / kChunks;
  static_assert(kRowsAtOnce % 8 == 0);  // a thread's rows share one swizzle
  const int thread = threadIdx.x % kGroupThreads;
  const int chunk = thread % kChunks;
  const int row = thread / kChunks;
  to += HalvesOffset<kTileTokens>(row, chunk);
  const bool in_one_place =
      begin >= source.packed_tokens || begin + kTileTokens <= source.packed_tokens;
  if (in_one_place && begin + kTileTokens <= end) {
    const __nv_bfloat16* from = source.Row(begin + row) + chunk * kChunkElements;
#pragma unroll
    for (int r = 0; r < kTileTokens; r += kRowsAtOnce) {
      CopyAsync16(to + r * kHalfRowBytes, from, 16);
      from += kRowsAtOnce * source.stride;
    }
    return;
  }
#pragma unroll 1
  for (int r = 0; r < kTileTokens; r += kRowsAtOnce) {
    const int token = begin + row + r;
    const bool valid = token < end;
    const __nv_bfloat16* from = source.Row(valid ? token : begin) + chunk * kChunkElements;
    CopyAsync16(to + r * kHalfRowBytes, from, valid ? 16 : 0);
  }
}

template <int kDim>
__device__ __forceinline__ void CopyTiles(const AttentionTables& tables, const TableSequence& s,
                                          const Work& work, SharedTiles<kDim>& shared, Ring& ring) {
  const TableView& local = tables.views[s.first_view + s.num_views - 1];
  const Source keys = SourceOf(tables, s, tables.packed_k, local.k, work.kv_head);
  const Source values = SourceOf(tables, s, tables.packed_v, local.v, work.kv_head);
  for (int token = work.range.begin; token < work.range.end; token += kTileTokens) {
    BarrierWait(SharedAddress(&shared.k_empty[ring.stage]), ring.parity ^ 1);
    CopyTile<kDim>(keys, token, work.range.end, SharedAddress(shared.k[ring.stage]));
    BarrierArriveAfterCopies(SharedAddress(&shared.k_full[ring.stage]));
    BarrierWait(SharedAddress(&shared.v_empty[ring.stage]), ring.parity ^ 1);
    CopyTile<kDim>(values, token, work.range.end, SharedAddress(shared.v[ring.stage]));
    BarrierArriveAfterCopies(SharedAddress(&shared.v_full[ring.stage]));
    ring.Next();
  }
}

// A computing warpgroup's 64 rows of q to shared memory.
template <int kDim>
__device__ __forceinline__ void StoreQueries(const AttentionTables& tables, const TableSequence& s,
                                             const Work& work, int group, uint8_t* q) {
  constexpr int kChunks = kDim / kChunkElements;
  const int num_rows = s.num_queries * tables.group;
  NamedBarrier(kFirstGroupBarrier + group, kGroupThreads);  // the item before is done with q
#pragma unroll
  for (int i = 0; i < kGroupRows * kChunks / kGroupThreads; ++i) {
    const int u = threadIdx.x % kGroupThreads + i * kGroupThreads;
    const int row = group * kGroupRows + u / kChunks;
    const int chunk = u % kChunks;
    uint4 packed = {0, 0, 0, 0};
    if (work.first_row + row < num_rows) {
      const auto* from = reinterpret_cast<const float4*>(
          s.q + QueryOffset(tables, work.first_row + row, work.kv_head) + chunk * kChunkElements);
      const float4 a = from[0];
      const float4 b = from[1];
      packed = {PackBFloat16(a.x, a.y), PackBFloat16(a.z, a.w), PackBFloat16(b.x, b.y),
                PackBFloat16(b.z, b.w)};
    }
    *reinterpret_cast<uint4*>(q + HalvesOffset<kRows>(row, chunk)) = packed;
  }
  FenceForProducts();
  NamedBarrier(kFirstGroupBarrier + group, kGroupThreads);
}

// What a thread keeps of its rows: lane 4g+c holds rows g and g+8 of its warp's 16.
template <int kDim>
struct Rows {
  float sums[kDim / 8][4];
  float scores[kTileTokens / 8][4];
  uint32_t weights[kTokenSteps][4];
  SoftmaxState state[2];
  int limit[2];
};

// Starts scores = q · kᵀ.
template <int kDim>
__device__ __forceinline__ void StartScores(uint32_t q, uint32_t k, Rows<kDim>& rows) {
#pragma unroll
  for (int kk = 0; kk < kDim / 16; ++kk) {
    const uint32_t within = kk % 4 * 32;
    const uint64_t a = Descriptor(q + kk / 4 * kRows * kHalfRowBytes + within, 16, kAtomBytes);
    const uint64_t b =
        Descriptor(k + kk / 4 * kTileTokens * kHalfRowBytes + within, 16, kAtomBytes);
    ProductByRows(rows.scores, a, b, kk > 0 ? 1 : 0);
  }
  CommitProducts();
}

// Starts sums += weights · v.
template <int kDim>
__device__ __forceinline__ void StartSums(uint32_t v, Rows<kDim>& rows) {
#pragma unroll
  for (int t = 0; t < kTokenSteps; ++t) {
    const uint64_t b = Descriptor(v + t * 2 * kAtomBytes, kTileTokens * kHalfRowBytes, kAtomBytes);
    ProductTransposed(rows.sums, rows.weights[t], b);
  }
  CommitProducts();
}

// Scores to weights in place; returns the factors of earlier sums.
template <int kDim>
__device__ __forceinline__ float2 Weigh(Rows<kDim>& rows, int token, bool masked, float scale,
                                        int lane) {
  if (masked) {
#pragma unroll
    for (int n = 0; n < kTileTokens / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = token + 8 * n + 2 * (lane % 4) + i % 2;
        if (at >= rows.limit[i / 2]) rows.scores[n][i] = -INFINITY;
      }
    }
  }
  const float low = Reweigh<0>(rows.scores, scale, rows.state[0]);
  const float high = Reweigh<1>(rows.scores, scale, rows.state[1]);
  return {low, high};
}

template <int kDim>
__device__ __forceinline__ void RoundWeights(Rows<kDim>& rows) {
#pragma unroll
  for (int t = 0; t < kTokenSteps; ++t) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float(&w)[4] = rows.scores[2 * t + j];
      rows.weights[t][2 * j] = PackBFloat16(w[0], w[1]);
      rows.weights[t][2 * j + 1] = PackBFloat16(w[2], w[3]);
    }
  }
}

// As AddNonFinite, for a layout in halves.
template <int kDim>
__device__ __forceinline__ void AddNonFiniteHalves(const uint8_t* v, int first, int lane,
                                                   Rows<kDim>& rows) {
  for (int t = 0; t < kTileTokens; ++t) {
    const bool low = first + t < rows.limit[0];
    const bool high = first + t < rows.limit[1];
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const uint32_t pair =
          *reinterpret_cast<const uint32_t*>(v + HalvesOffset<kTileTokens>(t, n) + 4 * (lane % 4));
      const uint32_t bad_pair = pair ^ FiniteOrZero(pair);
      if (bad_pair == 0) continue;
      if (low) {
        rows.sums[n][0] += LowFloat(bad_pair);
        rows.sums[n][1] += HighFloat(bad_pair);
      }
      if (high) {
        rows.sums[n][2] += LowFloat(bad_pair);
        rows.sums[n][3] += HighFloat(bad_pair);
      }
    }
  }
}

// Non-finite values that not every row sees are added where they are seen, then zeroed. By all
// computing threads, none of which has products under way.
template <int kDim>
__device__ __forceinline__ void IsolateNonFinite(uint8_t* v, int token, int lane,
                                                 Rows<kDim>& rows) {
  constexpr int kChunks = kTileTokens * kDim / kChunkElements;
  const int thread = threadIdx.x - kGroupThreads;
  auto* chunks = reinterpret_cast<uint4*>(v);
  bool any = false;
  for (int u = thread; u < kChunks; u += kComputeThreads) any |= HasNonFinite(chunks[u]);
  if (!AnyNamed(kAllBarrier, kComputeThreads, any)) return;
  AddNonFiniteHalves(v, token, lane, rows);
  NamedBarrier(kAllBarrier, kComputeThreads);
  for (int u = thread; u < kChunks; u += kComputeThreads) chunks[u] = FiniteOrZero(chunks[u]);
  FenceForProducts();
  NamedBarrier(kAllBarrier, kComputeThreads);
}

template <int kDim>
__device__ __forceinline__ void StoreRows(const AttentionTables& tables, const TableSequence& s,
                                          const Work& work, int group_row, int lane,
                                          Rows<kDim>& rows) {
  const bool partial = s.num_splits > 1;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float weight_sum = SumOverQuad(rows.state[half].weight_sum);
    const int row = work.first_row + group_row + 8 * half;
    if (row > work.last_row) continue;
    const int64_t partial_row = PartialRow(tables, s, work.split, work.kv_head, row);
    const float factor = partial ? 1.0f : InverseWeight(weight_sum);
    float* out = partial ? tables.partial_out + partial_row * kDim
                         : s.out + QueryOffset(tables, row, work.kv_head);
    if (partial && lane % 4 == 0) {
      tables.partial_state[partial_row] = {rows.state[half].largest, weight_sum};
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<float2*>(out + 8 * n + 2 * (lane % 4)) = {
          rows.sums[n][2 * half] * factor, rows.sums[n][2 * half + 1] * factor};
    }
  }
}

// The computing warpgroups take turns: one starts its products while the other makes weights.
__device__ __forceinline__ void AwaitTurn(int group) {
  NamedBarrier(kFirstTurnBarrier + group, kComputeThreads);
}
__device__ __forceinline__ void GiveTurn(int group) {
  ArriveNamed(kFirstTurnBarrier + 1 - group, kComputeThreads);
}

// One arrival a warp.
__device__ __forceinline__ void Release(uint64_t& barrier, int lane) {
  __syncwarp();
  if (lane == 0) BarrierArrive(SharedAddress(&barrier));
}

template <int kDim>
__device__ __forceinline__ void ComputeTiles(const AttentionTables& tables, const TableSequence& s,
                                             const Work& work, SharedTiles<kDim>& shared,
                                             Ring& k_ring, Ring& v_ring) {
  const int group = threadIdx.x / kGroupThreads - 1;
  const int lane = threadIdx.x % kWarp;
  const int group_row = group * kGroupRows + threadIdx.x % kGroupThreads / kWarp * 16 + lane / 4;
  const float scale = tables.scale * kLog2E;
  const int whole = min(LimitOf(s, work.first_row / tables.group), work.range.end);
  StoreQueries<kDim>(tables, s, work, group, shared.q);
  const uint32_t q = SharedAddress(shared.q) + group * kGroupRows * kHalfRowBytes;

  Rows<kDim> rows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = min(work.first_row + group_row + 8 * half, work.last_row);
    rows.limit[half] = min(LimitOf(s, row / tables.group), work.range.end);
  }
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
    rows.sums[n][0] = rows.sums[n][1] = rows.sums[n][2] = rows.sums[n][3] = 0.0f;
  }
  if (work.range.begin < work.range.end) {
    int token = work.range.begin;
    BarrierWait(SharedAddress(&shared.k_full[k_ring.stage]), k_ring.parity);
    FenceForProducts();
    BeginProducts();
    StartScores(q, SharedAddress(shared.k[k_ring.stage]), rows);
    WaitForProducts<0>();
    Pin(rows.scores);
    Release(shared.k_empty[k_ring.stage], lane);
    k_ring.Next();
    bool masked = token + kTileTokens > whole;
    Weigh(rows, token, masked, scale, lane);
    RoundWeights(rows);
    for (; token < work.range.end; token += kTileTokens) {
      const bool more = token + kTileTokens < work.range.end;
      BarrierWait(SharedAddress(&shared.v_full[v_ring.stage]), v_ring.parity);
      if (masked) IsolateNonFinite(shared.v[v_ring.stage], token, lane, rows);
      if (more) {
        BarrierWait(SharedAddress(&shared.k_full[k_ring.stage]), k_ring.parity);
        FenceForProducts();
        AwaitTurn(group);
        BeginProducts();
        StartScores(q, SharedAddress(shared.k[k_ring.stage]), rows);
        StartSums(SharedAddress(shared.v[v_ring.stage]), rows);
        GiveTurn(group);
        WaitForProducts<1>();
        Pin(rows.scores);
        Release(shared.k_empty[k_ring.stage], lane);
        k_ring.Next();
        masked = token + 2 * kTileTokens > whole;
        const float2 factors = Weigh(rows, token + kTileTokens, masked, scale, lane);
        Pin(rows.scores);  // weights are made while the sums are under way, not after
        WaitForProducts<0>();
        Pin(rows.sums);
        Release(shared.v_empty[v_ring.stage], lane);
        v_ring.Next();
        ScaleRows(rows.sums, factors.x, factors.y);
        RoundWeights(rows);
      } else {
        FenceForProducts();
        BeginProducts();
        StartSums(SharedAddress(shared.v[v_ring.stage]), rows);
        WaitForProducts<0>();
        Pin(rows.sums);
        Release(shared.v_empty[v_ring.stage], lane);
        v_ring.Next();
      }
    }
  }
  StoreRows(tables, s, work, group_row, lane, rows);
}

// body(sequence, work) for the block's share of items · heads: the longest come first, dealt out in
// turn. Copies of the next item run under the end of this one.
template <class Body>
__device__ __forceinline__ void ForItems(const AttentionTables& tables, int num_items,
                                         const Body& body) {
  for (int i = blockIdx.x; i < num_items * tables.num_kv_heads; i += gridDim.x) {
    const TableItem item = tables.items[i % num_items];
    const TableSequence& s = tables.sequences[item.sequence];
    body(s, WorkOf(tables, s, item, i / num_items));
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    HopperPrefillKernel(AttentionTables tables, int num_items) {
#if __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) uint8_t bytes[];
  auto& shared = *reinterpret_cast<SharedTiles<kDim>*>(bytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(SharedAddress(&shared.k_full[i]), kGroupThreads);
      BarrierInit(SharedAddress(&shared.v_full[i]), kGroupThreads);
      BarrierInit(SharedAddress(&shared.k_empty[i]), kComputeWarps);
      BarrierInit(SharedAddress(&shared.v_empty[i]), kComputeWarps);
    }
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    GiveRegisters<kCopyRegisters>();
    Ring ring;
    ForItems(tables, num_items, [&](const TableSequence& s, const Work& work) {
      CopyTiles<kDim>(tables, s, work, shared, ring);
    });
    WaitForCopies<0>();  // a block must not end under its copies
  } else {
    TakeRegisters<kComputeRegisters>();
    Ring k_ring;
    Ring v_ring;
    if (threadIdx.x >= 2 * kGroupThreads) GiveTurn(1);
    ForItems(tables, num_items, [&](const TableSequence& s, const Work& work) {
      ComputeTiles<kDim>(tables, s, work, shared, k_ring, v_ring);
    });
  }
#endif
}

template <int kDim>
cudaError_t Launch(const AttentionTables& tables, int num_items, cudaStream_t stream) {
  constexpr int kSharedBytes = sizeof(SharedTiles<kDim>);
  const auto kernel = HopperPrefillKernel<kDim>;
  int device = 0;
  int processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  }
  if (error != cudaSuccess) return error;
  const int blocks = std::min(processors, num_items * tables.num_kv_heads);
  kernel<<<blocks, kThreads, kSharedBytes, stream>>>(tables, num_items);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchPrefillHopper(const AttentionLaunch& launch, const AttentionTables& tables,
                                cudaStream_t stream) {
  static_assert(kRows == kPrefillRowsTensor);
  if (launch.shape.head_dim == 64) return Launch<64>(tables, launch.num_prefill_items, stream);
  return Launch<128>(tables, launch.num_prefill_items, stream);
}

}  // namespace msa::kernels::cuda

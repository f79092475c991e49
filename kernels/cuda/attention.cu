// What every attention launch shares: the order of its kernels, packing of rows to bfloat16, the
// merge of splits, and the growth of local contexts.
#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/mma.cuh"

namespace msa::kernels::cuda {
namespace {

constexpr int kPackThreads = 256;
constexpr int kMergeThreads = 128;

template <class T>
const T* At(const void* base, size_t offset) {
  return reinterpret_cast<const T*>(static_cast<const uint8_t*>(base) + offset);
}

// Rows of a multiple of four elements. By one warp.
template <ElementType kType>
__device__ __forceinline__ void PackRowOf(const void* from, const float* scales, int64_t row,
                                          int heads, int head_dim, __nv_bfloat16* to) {
  const int width = heads * head_dim;
#pragma unroll 4
  for (int i = 4 * (static_cast<int>(threadIdx.x) % kWarp); i < width; i += 4 * kWarp) {
    const float scale = scales != nullptr ? scales[row * heads + i / head_dim] : 1.0f;
    const float4 x = FourAt<kType>(from, row * width + i);
    *reinterpret_cast<uint2*>(to + i) = {PackBFloat16(scale * x.x, scale * x.y),
                                         PackBFloat16(scale * x.z, scale * x.w)};
  }
}

__device__ __forceinline__ void PackRow(const void* from, const float* scales, ElementType type,
                                        int64_t row, int heads, int head_dim, int64_t to_row,
                                        __nv_bfloat16* packed) {
  __nv_bfloat16* to = packed + to_row * heads * head_dim;
  switch (type) {
    case ElementType::kFloat32:
      return PackRowOf<ElementType::kFloat32>(from, scales, row, heads, head_dim, to);
    case ElementType::kBFloat16:
      return PackRowOf<ElementType::kBFloat16>(from, scales, row, heads, head_dim, to);
    case ElementType::kInt8:
      return PackRowOf<ElementType::kInt8>(from, scales, row, heads, head_dim, to);
    case ElementType::kFloat8E4M3:
      return PackRowOf<ElementType::kFloat8E4M3>(from, scales, row, heads, head_dim, to);
    case ElementType::kFloat16:
      return;  // no view is of this type
  }
}

// Block x takes a pack item, a warp takes a token's K and V at a time.
__global__ void PackKernel(AttentionTables tables) {
  const TablePackItem item = tables.pack_items[blockIdx.x];
  const TableSequence s = tables.sequences[item.sequence];
  const TableView* views = tables.views + s.first_view;
  ViewCursor cursor(views);
  const int end = min(item.first_token + kPackTokens, s.packed_tokens);
  for (int token = item.first_token + static_cast<int>(threadIdx.x) / kWarp; token < end;
       token += kPackThreads / kWarp) {
    cursor.Seek(token, views + s.num_views);
    const TableView& view = cursor.view;
    const int64_t row = token - view.first_token;
    PackRow(view.k, view.k_scales, view.type, row, tables.num_kv_heads, tables.head_dim,
            s.packed_row + token, tables.packed_k);
    PackRow(view.v, view.v_scales, view.type, row, tables.num_kv_heads, tables.head_dim,
            s.packed_row + token, tables.packed_v);
  }
}

// kBase2: scores were in units of log 2.
template <bool kBase2>
__device__ __forceinline__ float Exponential(float x) {
  return kBase2 ? exp2f(x) : expf(x);
}

// Block x takes a merge item's rows of KV head y; a warp takes a row.
template <bool kBase2>
__global__ void MergeKernel(AttentionTables tables) {
  const TableMergeItem item = tables.merge_items[blockIdx.x];
  if (item.sequence < 0) return;  // a table with room for more
  const TableSequence s = tables.sequences[item.sequence];
  const int kv_head = blockIdx.y;
  const int rows = s.num_queries * tables.group;
  const int lane = threadIdx.x % kWarp;
  const int64_t step = static_cast<int64_t>(tables.num_kv_heads) * rows;  // rows between splits
  const int end = min(item.first_row + kMergeRows, rows);
  for (int row = item.first_row + static_cast<int>(threadIdx.x) / kWarp; row < end;
       row += kMergeThreads / kWarp) {
    const int64_t first = PartialRow(tables, s, 0, kv_head, row);
    float largest = -INFINITY;
    for (int i = lane; i < s.num_splits; i += kWarp) {
      largest = fmaxf(largest, tables.partial_state[first + i * step].x);
    }
    largest = WarpReduce(largest, [](float a, float b) { return fmaxf(a, b); });
    const float base = largest == -INFINITY ? 0.0f : largest;
    float weight_sum = 0.0f;
    for (int i = 0; i < s.num_splits; ++i) {
      const float2 state = tables.partial_state[first + i * step];
      weight_sum += state.y * Exponential<kBase2>(state.x - base);
    }
    const float inverse = InverseWeight(weight_sum);
    float* out = s.out + QueryOffset(tables, row, kv_head);
    for (int d = lane; d < tables.head_dim; d += kWarp) {
      float sum = 0.0f;
#pragma unroll 4
      for (int i = 0; i < s.num_splits; ++i) {
        const int64_t at = first + i * step;
        const float factor = Exponential<kBase2>(tables.partial_state[at].x - base);
        sum += factor * tables.partial_out[at * tables.head_dim + d];
      }
      out[d] = sum * inverse;
    }
  }
}

__global__ void AdvanceKernel(TableSequence* sequences, TableView* views, int num_sequences,
                              int tokens) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= num_sequences) return;
  TableSequence& s = sequences[i];
  s.local_tokens += tokens;
  s.first_visible += tokens;
  views[s.first_view + s.num_views - 1].num_tokens += tokens;
}

}  // namespace

AttentionTables TablesOf(const AttentionLaunch& launch, void* table, void* workspace) {
  auto* bytes = static_cast<uint8_t*>(workspace);
  AttentionTables tables = {};
  tables.sequences = At<TableSequence>(table, 0);
  tables.views = At<TableView>(table, launch.views_offset);
  tables.pack_items = At<TablePackItem>(table, launch.pack_offset);
  tables.merge_items = At<TableMergeItem>(table, launch.merge_offset);
  tables.counters =
      reinterpret_cast<int32_t*>(static_cast<uint8_t*>(table) + launch.counters_offset);
  tables.partial_out = reinterpret_cast<float*>(bytes);
  tables.partial_state = reinterpret_cast<float2*>(bytes + launch.state_offset);
  tables.packed_k = reinterpret_cast<__nv_bfloat16*>(bytes + launch.packed_k_offset);
  tables.packed_v = reinterpret_cast<__nv_bfloat16*>(bytes + launch.packed_v_offset);
  tables.num_kv_heads = launch.shape.num_kv_heads;
  tables.group = launch.shape.group();
  tables.head_dim = launch.shape.head_dim;
  tables.scale = launch.shape.scale;
  return tables;
}

cudaError_t LaunchAttention(const AttentionLaunch& launch, void* table, void* workspace,
                            cudaStream_t stream) {
  if (launch.num_sequences == 0) return cudaSuccess;
  const AttentionShape& shape = launch.shape;
  if (shape.head_dim < 1 || shape.head_dim > kMaxAttentionDim || shape.num_kv_heads < 1 ||
      shape.num_q_heads % shape.num_kv_heads != 0) {
    return cudaErrorInvalidValue;
  }
  const AttentionTables tables = TablesOf(launch, table, workspace);
  if (launch.num_pack_items > 0) {
    PackKernel<<<launch.num_pack_items, kPackThreads, 0, stream>>>(tables);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  cudaError_t error = cudaSuccess;
  if (launch.tensor_cores) {
    error = LaunchDecodeTensor(launch, tables, stream);
    if (error == cudaSuccess) error = LaunchPrefillTensor(launch, tables, stream);
  } else {
    error = LaunchFloat32(launch, tables, stream);
  }
  if (error != cudaSuccess || launch.num_merge_items == 0) return error;
  const dim3 grid(launch.num_merge_items, shape.num_kv_heads);
  const auto merge = launch.tensor_cores ? MergeKernel<true> : MergeKernel<false>;
  merge<<<grid, kMergeThreads, 0, stream>>>(tables);
  return cudaGetLastError();
}

cudaError_t AdvanceLocal(const AttentionLaunch& launch, void* table, int tokens,
                         cudaStream_t stream) {
  if (launch.num_sequences == 0) return cudaSuccess;
  auto* bytes = static_cast<uint8_t*>(table);
  constexpr int kThreads = 128;
  AdvanceKernel<<<(launch.num_sequences + kThreads - 1) / kThreads, kThreads, 0, stream>>>(
      reinterpret_cast<TableSequence*>(bytes),
      reinterpret_cast<TableView*>(bytes + launch.views_offset), launch.num_sequences, tokens);
  return cudaGetLastError();
}

}  // namespace msa::kernels::cuda

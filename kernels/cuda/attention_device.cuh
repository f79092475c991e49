// Device helpers shared by the attention kernels.
#ifndef MSA_KERNELS_CUDA_ATTENTION_DEVICE_CUH_
#define MSA_KERNELS_CUDA_ATTENTION_DEVICE_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_table.h"
#include "kernels/cuda/elements.cuh"

namespace msa::kernels::cuda {

// A kernel's arguments: a plan's arrays at their places.
struct AttentionTables {
  const TableSequence* sequences;
  const TableView* views;
  const TableItem* items;
  const TablePackItem* pack_items;
  const TableMergeItem* merge_items;
  float* partial_out;       // [partial rows, head_dim], sums not yet divided
  int32_t* counters;        // [sequences, num_kv_heads] items done, 0 between launches
  float2* partial_state;    // [partial rows]: (largest score, sum of weights relative to it)
  __nv_bfloat16* packed_k;  // [packed rows, num_kv_heads, head_dim]
  __nv_bfloat16* packed_v;
  int num_kv_heads;
  int group;
  int head_dim;
  float scale;
};

AttentionTables TablesOf(const AttentionLaunch& launch, void* table, void* workspace);

cudaError_t LaunchDecodeTensor(const AttentionLaunch& launch, AttentionTables tables,
                               cudaStream_t stream);
cudaError_t LaunchPrefillTensor(const AttentionLaunch& launch, AttentionTables tables,
                                cudaStream_t stream);
cudaError_t LaunchFloat32(const AttentionLaunch& launch, AttentionTables tables,
                          cudaStream_t stream);

// Where the view of a token is; tokens are asked for in ascending order.
struct ViewCursor {
  const TableView* next;
  TableView view;

  __device__ __forceinline__ explicit ViewCursor(const TableView* first)
      : next(first + 1), view(*first) {}

  // The last view is never passed.
  __device__ __forceinline__ void Seek(int token, const TableView* end) {
    while (token >= view.first_token + view.num_tokens && next < end) view = *next++;
  }
};

__device__ __forceinline__ int64_t QueryOffset(const AttentionTables& tables, int row,
                                               int kv_head) {
  const int query = row / tables.group;
  const int head = kv_head * tables.group + row % tables.group;
  return (static_cast<int64_t>(query) * tables.num_kv_heads * tables.group + head) *
         tables.head_dim;
}

__device__ __forceinline__ int64_t PartialRow(const AttentionTables& tables, const TableSequence& s,
                                              int split, int kv_head, int row) {
  const int64_t rows = static_cast<int64_t>(s.num_queries) * tables.group;
  return s.partial_row + (static_cast<int64_t>(split) * tables.num_kv_heads + kv_head) * rows + row;
}

// What a sum of weighted values is divided by: a row that saw nothing has sums of 0 and stays 0.
__device__ __forceinline__ float InverseWeight(float weight_sum) {
  return weight_sum == 0.0f ? 0.0f : 1.0f / weight_sum;
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ATTENTION_DEVICE_CUH_

// The device table of a plan: what PlanAttention writes and the kernels read.
#ifndef MSA_KERNELS_CUDA_ATTENTION_TABLE_H_
#define MSA_KERNELS_CUDA_ATTENTION_TABLE_H_

#include <cstdint>

#include "kernels/cuda/element_type.h"

#ifdef __CUDACC__
#define MSA_HOST_DEVICE __host__ __device__
#else
#define MSA_HOST_DEVICE
#endif

namespace msa::kernels::cuda {

// A sequence's tokens are numbered through its views in order, local last: token t is visible to a
// query when t < that query's limit.
struct alignas(16) TableView {
  const void* k;
  const void* v;
  const float* k_scales;
  const float* v_scales;
  int32_t first_token;
  int32_t num_tokens;
  int32_t
      type_end;  // the first token of a later view of another type; INT32_MAX when there is none
  ElementType type;
};
static_assert(sizeof(TableView) == 48);

struct alignas(16) TableSequence {
  const float* q;
  float* out;
  int32_t num_queries;
  int32_t first_view;
  int32_t num_views;  // at least 1, the last is local
  int32_t block_tokens;
  int32_t local_tokens;
  int32_t first_visible;
  int32_t causal;
  int32_t num_splits;
  int64_t partial_row;  // first row of partial sums, num_splits > 1
  // Tensor-core prefill reads bfloat16 rows only: tokens 0 … packed_tokens-1 from the workspace,
  // from row packed_row on, the others from the last view.
  int64_t packed_row;
  int32_t packed_tokens;
};
static_assert(sizeof(TableSequence) == 80);

// Rows first_row … of the (query, head of the group) pairs of a sequence, query-major, against
// splits split … split + num_splits - 1 of its tokens. One block for each of these and each KV
// head.
struct alignas(16) TableItem {
  int32_t sequence;
  int32_t first_row;
  int32_t split;
  int32_t num_splits;  // 1 but in tensor-core decode
  int32_t num_items;   // of the sequence: the last to be done merges, in tensor-core decode
  // The sequence's, so that they can be read at the same time as it.
  int32_t first_view;
  int32_t num_views;
};
static_assert(sizeof(TableItem) == 32);

// Tokens first_token … + kPackTokens of a sequence to be made bfloat16.
struct TablePackItem {
  int32_t sequence;
  int32_t first_token;
};

struct TableMergeItem {
  int32_t sequence;
  int32_t first_row;
};

inline constexpr int kPackTokens = 16;
inline constexpr int kMergeRows = 16;
inline constexpr int kDecodeRows = 16;          // rows of a decode item
inline constexpr int kPrefillRowsFloat32 = 64;  // rows of a prefill item
inline constexpr int kPrefillRowsTensor = 128;
inline constexpr int kSplitAlign = 64;  // splits begin at multiples of this many tokens

// Tokens that query `query` sees: t < limit.
MSA_HOST_DEVICE inline int LimitOf(const TableSequence& s, int query) {
  const int visible = s.causal != 0 ? s.first_visible + query + 1 : s.local_tokens;
  const int at_least_0 = visible > 0 ? visible : 0;
  return s.block_tokens + (at_least_0 < s.local_tokens ? at_least_0 : s.local_tokens);
}

struct TokenRange {
  int begin;
  int end;
};

// Tokens a split has. Made from the lengths of the moment, so that a table whose local contexts
// have grown is still a plan.
MSA_HOST_DEVICE inline int SplitTokens(const TableSequence& s) {
  const int all = LimitOf(s, s.num_queries - 1);
  const int each = (all + s.num_splits - 1) / s.num_splits;
  return (each + kSplitAlign - 1) / kSplitAlign * kSplitAlign;
}

// Of splits split … split + num_splits - 1, for rows whose last query sees `limit` tokens.
MSA_HOST_DEVICE inline TokenRange RangeOf(const TableSequence& s, int split, int limit,
                                          int num_splits = 1) {
  if (s.num_splits == 1) return {0, limit};
  const int each = SplitTokens(s);
  const int end = (split + num_splits) * each;
  return {split * each, end < limit ? end : limit};
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ATTENTION_TABLE_H_

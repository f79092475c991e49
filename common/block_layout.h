// Where things lie inside an encoded block. One formula, used by whoever writes, checks or reads a
// block.
//   routing block: keys [chunks, key_width] of the bank's routing dtype; int8 and fp8: then float32
//                  scales [chunks].
//   content block: K̄ [chunks, num_kv_heads, head_dim], V̄ the same, of the content dtype; int8 and
//                  fp8: then float32 scales of K̄ [chunks, num_kv_heads], then of V̄.
// Parts start at multiples of 4 bytes.
// Little-endian throughout (docs/storage_format.md).
#ifndef MSA_COMMON_BLOCK_LAYOUT_H_
#define MSA_COMMON_BLOCK_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"

namespace msa {

constexpr size_t AlignTo4(size_t bytes) { return (bytes + 3) & ~size_t{3}; }

struct RoutingBlockLayout {
  RoutingBlockLayout(DType dtype, int64_t chunks, int64_t key_width)
      : scales_offset(AlignTo4(chunks * key_width * DTypeBytes(dtype))),
        size(HasScales(dtype) ? scales_offset + chunks * sizeof(float) : scales_offset) {}
  size_t scales_offset;
  size_t size;  // of the whole block
};

struct ContentBlockLayout {
  ContentBlockLayout(DType dtype, int64_t chunks, int64_t num_kv_heads, int64_t head_dim)
      : v_offset(AlignTo4(chunks * num_kv_heads * head_dim * DTypeBytes(dtype))),
        k_scales_offset(2 * v_offset),
        v_scales_offset(k_scales_offset + (HasScales(dtype) ? chunks * num_kv_heads * 4 : 0)),
        size(v_scales_offset + (v_scales_offset - k_scales_offset)) {}
  size_t v_offset;
  size_t k_scales_offset;
  size_t v_scales_offset;
  size_t size;
};

}  // namespace msa

#endif  // MSA_COMMON_BLOCK_LAYOUT_H_

// The dense product of many rows, by the library chosen in docs/decisions/0001-dense-products.md.
// dense.cc is the only file that includes its header.
#ifndef MSA_KERNELS_CPU_DENSE_H_
#define MSA_KERNELS_CPU_DENSE_H_

#include <cstdint>

namespace msa::kernels {

struct DenseProductArgs {
  const float* x;  // [rows, in]
  const float* w;  // [out, w_stride], of each row the first `in`
  float* y;        // [rows, y_stride], of each row the first `out` are written
  int64_t rows;
  int64_t in;
  int64_t out;
  int64_t w_stride;  // elements
  int64_t y_stride;  // elements
};

// y = x · wᵀ, on the calling thread alone.
void DenseProduct(const DenseProductArgs& args);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_DENSE_H_

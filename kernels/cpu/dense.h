// The dense product of many rows, by the library chosen in docs/decisions/0001-dense-products.md.
// dense.cc is the only file that includes its header.
#ifndef MSA_KERNELS_CPU_DENSE_H_
#define MSA_KERNELS_CPU_DENSE_H_

#include <cstdint>

namespace msa::kernels {

// y [rows, y_stride] = x [rows, in] · wᵀ, w [out, w_stride]; on the calling thread alone.
void DenseProduct(const float* x, int64_t rows, int64_t in, const float* w, int64_t w_stride,
                  int64_t out, float* y, int64_t y_stride);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_DENSE_H_

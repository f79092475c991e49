#include "kernels/cpu/dense.h"

#include <cblas.h>

namespace msa::kernels {

void UseOneBlasThread() {
  static const bool done = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(done);
}

void DenseProduct(const float* x, int64_t rows, int64_t in, const float* w, int64_t w_stride,
                  int64_t out, float* y, int64_t y_stride) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows),
              static_cast<int>(out), static_cast<int>(in), 1.0f, x, static_cast<int>(in), w,
              static_cast<int>(w_stride), 0.0f, y, static_cast<int>(y_stride));
}

}  // namespace msa::kernels

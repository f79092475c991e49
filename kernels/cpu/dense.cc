#include "kernels/cpu/dense.h"

#include <dnnl.h>
#include <omp.h>

#include "common/check.h"

namespace msa::kernels {

void DenseProduct(const float* x, int64_t rows, int64_t in, const float* w, int64_t w_stride,
                  int64_t out, float* y, int64_t y_stride) {
  // Of the calling thread only: work is divided by our pool, and a second pool of OpenMP threads
  // spinning on the same cores halves the speed of both.
  omp_set_num_threads(1);
  const dnnl_status_t status =
      dnnl_sgemm('N', 'T', rows, out, in, 1.0f, x, in, w, w_stride, 0.0f, y, y_stride);
  MSA_CHECK(status == dnnl_success);
}

}  // namespace msa::kernels

#include "kernels/cpu/dense.h"

#include <dnnl.h>
#include <omp.h>

#include "common/check.h"

namespace msa::kernels {

void DenseProduct(const DenseProductArgs& args) {
  // Of the calling thread only: work is divided by our pool, and a second pool of OpenMP threads
  // spinning on the same cores halves the speed of both.
  omp_set_num_threads(1);
  const dnnl_status_t status =
      dnnl_sgemm('N', 'T', args.rows, args.out, args.in, 1.0f, args.x, args.in, args.w,
                 args.w_stride, 0.0f, args.y, args.y_stride);
  MSA_CHECK(status == dnnl_success);
}

}  // namespace msa::kernels

// Working memory of kernels: one buffer a thread and use, grown when a call needs more and kept, so
// that nothing is allocated once shapes have been seen.
#ifndef MSA_KERNELS_CPU_SCRATCH_H_
#define MSA_KERNELS_CPU_SCRATCH_H_

#include <cstddef>

#include "hwy/aligned_allocator.h"

namespace msa::kernels {

template <typename T>
class Scratch {
 public:
  // At least n uninitialised elements, aligned for vectors, valid until the next Get.
  T* Get(size_t n) {
    if (n > capacity_) {
      buffer_ = hwy::AllocateAligned<T>(n);
      capacity_ = n;
    }
    return buffer_.get();
  }

 private:
  hwy::AlignedFreeUniquePtr<T[]> buffer_;
  size_t capacity_ = 0;
};

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_SCRATCH_H_

// Pinned memory that results of a pass come over to while the device works on. Taking it from the
// system takes milliseconds, so some is kept. Thread-safe.
#ifndef MSA_KERNELS_CUDA_LANDINGS_H_
#define MSA_KERNELS_CUDA_LANDINGS_H_

#include <atomic>
#include <cstddef>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/buffer.h"

namespace msa::kernels::cuda {

class Landings {
 public:
  // `failed`, of the device, is borrowed: such a one's memory is not given back.
  explicit Landings(const std::atomic<bool>& failed) : failed_(failed) {}
  ~Landings();  // nothing is on its way any more
  Landings(const Landings&) = delete;
  Landings& operator=(const Landings&) = delete;

  // Of the current device's process; null data when there is none. Given back, it is taken again by
  // work that comes later in the stream.
  Buffer Take(size_t bytes);

 private:
  static constexpr size_t kLeastBytes = size_t{1} << 20;
  static constexpr size_t kMaxSpareBytes = size_t{256} << 20;

  void Give(void* data, size_t room);

  const std::atomic<bool>& failed_;
  absl::Mutex mutex_;
  std::multimap<size_t, void*> spare_ ABSL_GUARDED_BY(mutex_);  // by room
  size_t spare_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_LANDINGS_H_

// Pinned memory that small copies between the processor and a device go by way of: a copy from it
// does not keep the processor, one to it ends when it is done and not when all work asked for since
// is. Thread-safe.
#ifndef MSA_KERNELS_CUDA_PINNED_SLOTS_H_
#define MSA_KERNELS_CUDA_PINNED_SLOTS_H_

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstddef>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace msa::kernels::cuda {

class PinnedSlots {
 public:
  static constexpr size_t kSlotBytes = size_t{1} << 20;

  struct Slot {
    void* data = nullptr;
    cudaEvent_t done = nullptr;
    bool taken = false;
  };

  // `failed`, of the device, is borrowed: such a one's memory is not given back.
  explicit PinnedSlots(const std::atomic<bool>& failed) : failed_(failed) {}
  ~PinnedSlots();
  PinnedSlots(const PinnedSlots&) = delete;
  PinnedSlots& operator=(const PinnedSlots&) = delete;

  // On the current device. What cannot be had is left out.
  void Init();
  // One whose last copy is done; null when there is none. Give it back with `done` recorded after
  // the copy.
  Slot* Take();
  void Give(Slot* slot);

 private:
  static constexpr int kSlots = 8;

  const std::atomic<bool>& failed_;
  absl::Mutex mutex_;
  std::array<Slot, kSlots> slots_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_PINNED_SLOTS_H_

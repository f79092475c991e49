#include "kernels/cuda/pinned_slots.h"

namespace msa::kernels::cuda {

PinnedSlots::~PinnedSlots() {
  if (failed_) return;
  for (Slot& slot : slots_) {
    if (slot.data == nullptr) continue;
    cudaEventDestroy(slot.done);
    cudaFreeHost(slot.data);
  }
}

void PinnedSlots::Init() {
  absl::MutexLock lock(&mutex_);
  for (Slot& slot : slots_) {
    if (cudaHostAlloc(&slot.data, kSlotBytes, cudaHostAllocDefault) != cudaSuccess) {
      slot.data = nullptr;
    } else if (cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming) != cudaSuccess) {
      cudaFreeHost(slot.data);
      slot.data = nullptr;
    }
  }
  cudaGetLastError();
}

PinnedSlots::Slot* PinnedSlots::Take() {
  absl::MutexLock lock(&mutex_);
  for (Slot& slot : slots_) {
    if (slot.data == nullptr || slot.taken || cudaEventQuery(slot.done) != cudaSuccess) continue;
    slot.taken = true;
    return &slot;
  }
  cudaGetLastError();  // a copy under way is no error
  return nullptr;
}

void PinnedSlots::Give(Slot* slot) {
  absl::MutexLock lock(&mutex_);
  slot->taken = false;
}

}  // namespace msa::kernels::cuda

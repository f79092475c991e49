#include "kernels/cuda/landings.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>

namespace msa::kernels::cuda {

Landings::~Landings() {
  if (failed_) return;
  for (const auto& [room, data] : spare_) cudaFreeHost(data);
}

Buffer Landings::Take(size_t bytes) {
  const size_t room = std::bit_ceil(std::max(bytes, kLeastBytes));
  const auto give = [this, room](void* data) { Give(data, room); };
  {
    absl::MutexLock lock(&mutex_);
    if (const auto it = spare_.find(room); it != spare_.end()) {
      void* data = it->second;
      spare_.erase(it);
      spare_bytes_ -= room;
      return Buffer(data, bytes, give);
    }
  }
  void* data = nullptr;
  if (cudaHostAlloc(&data, room, cudaHostAllocDefault) != cudaSuccess) {
    cudaGetLastError();
    return Buffer();
  }
  return Buffer(data, bytes, give);
}

void Landings::Give(void* data, size_t room) {
  {
    absl::MutexLock lock(&mutex_);
    if (spare_bytes_ + room <= kMaxSpareBytes) {
      spare_.emplace(room, data);
      spare_bytes_ += room;
      return;
    }
  }
  if (!failed_) cudaFreeHost(data);  // waits for what is on its way
}

}  // namespace msa::kernels::cuda

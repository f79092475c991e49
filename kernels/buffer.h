// Memory of a backend: the processor's, or a device's.
#ifndef MSA_KERNELS_BUFFER_H_
#define MSA_KERNELS_BUFFER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

namespace msa::kernels {

// Uninitialised bytes, given back with the last owner. Movable; must not outlive its backend.
class Buffer {
 public:
  using Release = std::function<void(void*)>;

  Buffer() = default;
  Buffer(void* data, size_t size, Release release) : data_(data, std::move(release)), size_(size) {}

  size_t size() const { return size_; }  // bytes
  void* data() const { return data_.get(); }
  // The bytes as T, from byte `offset` on.
  template <typename T>
  T* as(size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<char*>(data_.get()) + offset);
  }

 private:
  std::unique_ptr<void, Release> data_{nullptr, [](void*) {}};
  size_t size_ = 0;
};

// Of the processor's memory, aligned to a cache line; from 2 MiB on to a large page, which it asks
// the system for: a scan of the whole buffer is then spared most of the address translation. Pages
// are taken as they are written. Null data when there is no memory.
Buffer AllocateHost(size_t bytes);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_BUFFER_H_

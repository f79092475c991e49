// Arguments of one operation where kernels reach them: those in the processor's memory are copied
// over, results that belong there are copied back when the operation's Staging goes.
#ifndef MSA_KERNELS_CUDA_STAGING_H_
#define MSA_KERNELS_CUDA_STAGING_H_

#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/cuda/device.h"

namespace msa::kernels::cuda {

// Not thread-safe. Results are in the processor's memory after the destructor.
class Staging {
 public:
  // Failed from the start when the device is: its queue takes only so much more.
  explicit Staging(Device& device) : device_(device), failed_(device.failed()) {
    device_.Activate();
  }
  ~Staging() {
    if (failed_) return;
    for (const Result& result : results_) device_.Copy(result.to, result.from, result.bytes);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // `count` elements to be read. Null stays null.
  template <typename T>
  const T* In(const T* data, int64_t count) {
    return static_cast<const T*>(InBytes(data, count * sizeof(T)));
  }
  const void* InBytes(const void* data, size_t bytes) {
    if (data == nullptr || bytes == 0 || device_.Reaches(data)) return data;
    void* copy = Room(bytes);
    if (copy != nullptr) device_.Copy(copy, data, bytes);
    return copy;
  }
  // The same of what is read by call after call and stays where it is.
  template <typename T>
  const T* InKept(const T* data, int64_t count) {
    return static_cast<const T*>(InBytesKept(data, count * sizeof(T)));
  }
  const void* InBytesKept(const void* data, size_t bytes) {
    if (data == nullptr || bytes == 0 || device_.ReachesKept(data)) return data;
    return InBytes(data, bytes);
  }
  // A table that was there before, as it is, more often than not.
  template <typename T>
  const T* InTable(const std::vector<T>& table) {
    static_assert(std::has_unique_object_representations_v<T>);
    if (table.empty()) return nullptr;
    auto kept = device_.KeepTable(table.data(), table.size() * sizeof(T));
    if (!kept.ok()) {
      Fail();
      return nullptr;
    }
    tables_.push_back(*std::move(kept));
    return static_cast<const T*>(tables_.back()->data());
  }
  // `count` elements to be written.
  template <typename T>
  T* Out(T* data, int64_t count) {
    return static_cast<T*>(OutBytes(data, count * sizeof(T)));
  }
  void* OutBytes(void* data, size_t bytes) {
    if (data == nullptr || bytes == 0 || device_.Reaches(data)) return data;
    void* room = Room(bytes);
    if (room != nullptr) results_.push_back({data, room, bytes});
    return room;
  }
  // `count` elements to be read and written.
  template <typename T>
  T* InOut(T* data, int64_t count) {
    T* room = Out(data, count);
    if (room != data && room != nullptr) device_.Copy(room, data, count * sizeof(T));
    return room;
  }
  // Bytes until the operation has ended. Null, and an unhealthy device, when there is no memory,
  // the processor's neither: what was computed so far is lost in the middle, and the operation must
  // do nothing.
  void* Room(size_t bytes) {
    auto buffer = device_.AllocateRoom(bytes);
    if (!buffer.ok()) {
      Fail();
      return nullptr;
    }
    rooms_.push_back(*std::move(buffer));
    return rooms_.back().data();
  }
  bool failed() const { return failed_; }
  bool Reaches(const void* data) const { return device_.Reaches(data); }

 private:
  void Fail() {
    device_.Check(cudaErrorMemoryAllocation, "taking room for an operation");
    failed_ = true;
  }

  struct Result {
    void* to;
    const void* from;
    size_t bytes;
  };

  Device& device_;
  std::vector<Buffer> rooms_;
  std::vector<KeptTables::Table> tables_;
  std::vector<Result> results_;
  bool failed_;
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_STAGING_H_

// One GPU as the backend uses it: its stream, its memory, its first error. All work goes to one
// stream, so operations happen in the order they were asked for, whichever thread asked.
#ifndef MSA_KERNELS_CUDA_DEVICE_H_
#define MSA_KERNELS_CUDA_DEVICE_H_

#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"
#include "kernels/cuda/kept_tables.h"
#include "kernels/cuda/landings.h"
#include "kernels/cuda/pinned_slots.h"

namespace msa::kernels::cuda {

// FAILED_PRECONDITION for a GPU older than this project's kernels: compute capability 8.0.
absl::Status CheckArchitecture(const std::string& name, int compute_major, int compute_minor);

class Device {
 public:
  // FAILED_PRECONDITION naming what is missing: no driver, no such device, one older than compute
  // capability 8.0; RESOURCE_EXHAUSTED where others have all its memory. Of gpu_memory_bytes, or of
  // what is free where that is less, kWork may have all, kCache and kResident somewhat less;
  // kResident, and what an operation needs for its own length, then pinned memory of the processor,
  // up to host_memory_bytes.
  static absl::StatusOr<std::unique_ptr<Device>> Open(const BackendOptions& options);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Where this thread's work goes: the device's stream, or what the thread records.
  cudaStream_t stream() const;
  // Whether this thread's work is recorded and not done.
  bool records() const { return stream() != stream_; }
  int ordinal() const { return ordinal_; }
  const std::string& name() const { return name_; }
  bool hopper() const { return compute_major_ == 9; }  // sm_90a code runs
  // Makes the device current on the calling thread.
  void Activate();

  // Stream-ordered: memory given back is used again only after the work asked for before.
  absl::StatusOr<Buffer> Allocate(size_t bytes, Backend::Purpose purpose);
  // For the length of one operation, from what the budget leaves free. RESOURCE_EXHAUSTED.
  absl::StatusOr<Buffer> AllocateScratch(size_t bytes);
  // The same; in pinned memory, read through the bus, where the device has no room.
  absl::StatusOr<Buffer> AllocateRoom(size_t bytes);
  // A table of the processor's memory where kernels reach it, until the caller lets go of it. Not
  // of what is recorded, which takes nothing of the processor's (Backend::Record).
  absl::StatusOr<KeptTables::Table> KeepTable(const void* table, size_t bytes);
  // Whether kernels can use the pointer: it lies in a buffer of Allocate.
  bool Reaches(const void* pointer) const;
  // The same, without a lock from the second time on: for pointers asked for again and again, into
  // buffers that stay.
  bool ReachesKept(const void* pointer);
  // Asynchronous unless `to` is memory of the processor.
  void Copy(void* to, const void* from, size_t bytes);
  // As Backend's.
  Buffer StartFetch(const void* from, size_t bytes);
  std::unique_ptr<Mark> MakeMark();
  // Waits for all work asked for, kHangLimit at most: a device that takes longer has failed.
  void Wait();
  // The same for the work before the event; false when the device has failed. A thread that sleeps
  // notices somewhat later.
  bool Await(cudaEvent_t event, bool sleeps = false);

  // OK for an allocation that failed for want of memory, which is no failure of the device; any
  // other error is one that came before and shows only now: remembered and returned.
  absl::Status UnlessFull(cudaError_t error);
  // Remembers the first error.
  void Check(cudaError_t error, const char* what);
  // The same in words, after the device's name.
  void Fail(std::string_view why);
  absl::Status health() const;
  // Whether health() is an error. Nothing is asked of such a device any more, nor given back to it:
  // where it hangs most calls of the driver never return.
  bool failed() const { return failed_.load(std::memory_order_relaxed); }

  int64_t device_bytes() const;
  int64_t free_bytes() const { return max_resident_bytes_ - device_bytes(); }  // for keys
  int64_t host_bytes() const;

  // While it lives, this thread's operations go to `stream`, which records them, and their first
  // error to error(): what cannot be recorded says nothing about the device.
  class RecordingScope {
   public:
    RecordingScope(const Device& device, cudaStream_t stream);
    ~RecordingScope();
    RecordingScope(const RecordingScope&) = delete;
    RecordingScope& operator=(const RecordingScope&) = delete;
    cudaError_t error() const { return error_; }

   private:
    friend class Device;
    const Device& device_;
    const cudaStream_t stream_;
    cudaError_t error_ = cudaSuccess;
  };

 private:
  Device() = default;
  absl::Status Init(const BackendOptions& options);
  Buffer Register(void* data, size_t bytes, bool on_device);
  // Of the processor's memory; null data when there is none.
  Buffer AllocatePinned(size_t bytes);
  // Gives spare memory of operations to the driver. False when there is none.
  bool DropSpares();
  void Release(void* data, bool on_device);
  void ReleaseScratch(void* data, int size_class);
  std::atomic<uintptr_t>& KeptEntry(uintptr_t address);
  // By way of pinned memory; false, and nothing done, when that does not serve.
  bool CopyIn(void* to, const void* from, size_t bytes);
  bool CopyOut(void* to, const void* from, size_t bytes);

  int ordinal_ = 0;
  int compute_major_ = 0;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  std::atomic<bool> failed_ = false;
  PinnedSlots slots_{failed_};
  KeptTables tables_;
  Landings landings_{failed_};
  int64_t max_device_bytes_ = 0;
  int64_t max_resident_bytes_ = 0;  // of the same, while kResident is asked for
  int64_t max_cache_bytes_ = 0;     // while kCache is
  int64_t max_host_bytes_ = 0;
  // Memory of operations is given out again at once, in the stream's order, without asking for it.
  static constexpr int kScratchClasses = 13;  // 256 bytes, and twice as much each
  struct Held {
    size_t bytes = 0;
    bool kept = false;  // a pointer into it is in kept_
  };
  mutable absl::Mutex mutex_;
  absl::btree_map<uintptr_t, Held> buffers_ ABSL_GUARDED_BY(mutex_);  // by address
  std::array<std::vector<void*>, kScratchClasses> scratch_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::atomic<uintptr_t>> kept_;  // by hash; 0: none
  int64_t device_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t host_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool told_of_host_tier_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<cudaEvent_t> spare_events_ ABSL_GUARDED_BY(mutex_);  // of Wait
  absl::Status first_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_DEVICE_H_

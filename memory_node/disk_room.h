// Whether what is to be written fits the disk of a store, whoever else writes meanwhile.
#ifndef MSA_MEMORY_NODE_DISK_ROOM_H_
#define MSA_MEMORY_NODE_DISK_ROOM_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace msa::memory_node {

// Free space below which documents, and below which even deletes, are refused in any case.
inline constexpr uint64_t kMinFreeBytes = 2 << 20;
inline constexpr uint64_t kLastFreeBytes = 256 << 10;

// Keeps room for tombstones and compaction, without which a full disk could never be emptied, and
// for what is written already but not to its file. Thread-safe.
class DiskRoom {
 public:
  // `reserve_bytes`: of the disk of `path`, kept for deletes and compaction.
  DiskRoom(std::string path, int64_t reserve_bytes);

  // RESOURCE_EXHAUSTED; else what is admitted is in flight until it is Written. Without `normal`,
  // as deletes are, it may use the reserve. `unflushed`: bytes in the log and in no file yet.
  absl::Status Admit(size_t bytes, bool normal, absl::FunctionRef<uint64_t()> unflushed);
  // Also of what failed.
  void Written(size_t admitted);

 private:
  const std::string path_;
  const int64_t reserve_bytes_;
  absl::Mutex mutex_;
  uint64_t bytes_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_DISK_ROOM_H_

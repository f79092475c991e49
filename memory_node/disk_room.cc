#include "memory_node/disk_room.h"

#include <algorithm>
#include <utility>

#include "common/strings.h"
#include "memory_node/data_folder.h"

namespace msa::memory_node {

DiskRoom::DiskRoom(std::string path, int64_t reserve_bytes)
    : path_(std::move(path)), reserve_bytes_(reserve_bytes) {}

// Not even a tombstone goes to a log that may not fit: Debian builds RocksDB with assertions, and a
// log that once failed ends the process.
absl::Status DiskRoom::Admit(size_t bytes, bool normal, absl::FunctionRef<uint64_t()> unflushed) {
  absl::MutexLock one_at_a_time(&mutex_);
  // A value is written twice before the first copy goes: to the log, then to its file. Of what
  // came before, a tombstone needs the log to fit; documents left room for the rest.
  const uint64_t reserve =
      normal ? std::max<uint64_t>(reserve_bytes_, kMinFreeBytes) : kLastFreeBytes;
  const uint64_t before = normal ? 2 * bytes_in_flight_ + unflushed() : bytes_in_flight_;
  const uint64_t wanted = 2 * bytes + before + reserve;
  uint64_t free_bytes;
  if (!FreeBytes(path_, &free_bytes) || free_bytes >= wanted) {
    bytes_in_flight_ += bytes;
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      StrCat("the disk of ", path_, " is full: ", free_bytes, " bytes free, ", wanted, " needed (",
             reserve, " of them kept in reserve, ", before,
             " for what is being written); free space or delete documents"));
}

void DiskRoom::Written(size_t admitted) {
  absl::MutexLock lock(&mutex_);
  bytes_in_flight_ -= admitted;
}

}  // namespace msa::memory_node

#include "memory_node/data_folder.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/strings.h"

namespace msa::memory_node {
namespace {

bool CannotWrite(const std::error_code& error) {
  return error.value() == EROFS || error.value() == EACCES || error.value() == EPERM;
}

}  // namespace

absl::Status PrepareFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!std::filesystem::is_directory(path)) {
    const std::string message = StrCat(
        "the data folder ", path, " cannot be made: ", error.message(), "; choose another folder");
    return CannotWrite(error) ? absl::PermissionDeniedError(message)
                              : absl::InvalidArgumentError(message);
  }
  if (access(path.c_str(), W_OK | R_OK | X_OK) == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(StrCat("the data folder ", path, " cannot be written (",
                                            std::strerror(errno),
                                            "); make it writable or choose another folder"));
}

int64_t FileBytes(const std::string& folder) {
  int64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code gone;  // a file may be removed meanwhile
    const auto size = it->file_size(gone);
    if (!gone) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

bool FreeBytes(const std::string& path, uint64_t* bytes) {
  struct statvfs disk;
  if (statvfs(path.c_str(), &disk) != 0) return false;
  *bytes = uint64_t{disk.f_bavail} * disk.f_frsize;
  return true;
}

// RocksDB locks LOCK by fcntl. Closing it would give back a lock of this process's own: it has none
// in a folder that it does not serve.
bool InUseElsewhere(const std::filesystem::path& folder) {
  const int descriptor = open((folder / "LOCK").c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  const bool held = fcntl(descriptor, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  close(descriptor);
  return held;
}

absl::Status Sync(const std::filesystem::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool durable = descriptor >= 0 && fsync(descriptor) == 0;
  const std::error_code error(durable ? 0 : errno, std::generic_category());
  if (descriptor >= 0) close(descriptor);
  return DiskError(error, StrCat("sync of ", path.string()));
}

absl::Status DiskError(const std::error_code& error, std::string_view doing) {
  if (!error) return absl::OkStatus();
  const std::string message = StrCat(doing, ": ", error.message());
  if (error.value() == ENOSPC || error.value() == EDQUOT) {
    return absl::ResourceExhaustedError(StrCat("the disk is full; free space (", message, ")"));
  }
  if (CannotWrite(error)) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

}  // namespace msa::memory_node

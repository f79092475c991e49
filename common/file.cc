#include "common/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "common/strings.h"

namespace msa {
namespace {

constexpr size_t kFirstBytes = 4096;  // of what does not say how much it holds

absl::Status CannotRead(const std::string& path, int error) {
  const std::string what = StrCat("cannot read ", path);
  if (error == EISDIR) {
    return absl::InvalidArgumentError(StrCat(what, ": it is a folder; name the file in it"));
  }
  if (error == EIO) {
    return absl::DataLossError(StrCat(what, " to its end: its disk fails, or it is no plain file"));
  }
  const absl::Status status = absl::ErrnoToStatus(error, what);
  return error == ENOTDIR ? absl::NotFoundError(status.message()) : status;
}

size_t BytesOf(int file) {
  struct stat about;
  if (fstat(file, &about) != 0 || about.st_size <= 0) return kFirstBytes;
  return static_cast<size_t>(about.st_size);
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return CannotRead(path, errno);
  const absl::Cleanup closed = [file] { close(file); };
  return ReadOpenFile(file, path, max_bytes);
}

absl::StatusOr<std::string> ReadOpenFile(int file, const std::string& path, size_t max_bytes) {
  // One byte more than there should be: by it the end is seen, or that it is past the limit.
  std::string text(std::min(BytesOf(file), max_bytes) + 1, '\0');
  size_t bytes = 0;
  while (true) {
    const ssize_t got = read(file, text.data() + bytes, text.size() - bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return CannotRead(path, errno);
    if (got == 0) break;
    bytes += static_cast<size_t>(got);
    if (bytes > max_bytes) {
      return absl::ResourceExhaustedError(
          StrCat(path, " has more than ", max_bytes, " bytes, the limit"));
    }
    if (bytes == text.size()) text.resize(std::min(2 * bytes, max_bytes + 1));
  }
  text.resize(bytes);
  return text;
}

}  // namespace msa

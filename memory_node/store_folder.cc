#include "memory_node/store_folder.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::memory_node {
namespace {

constexpr char kFormatKey[] = "f";
constexpr uint32_t kStoreFormatVersion = 1;

}  // namespace

absl::Status PrepareFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!std::filesystem::is_directory(path)) {
    const bool read_only = error.value() == EROFS || error.value() == EACCES;
    const std::string message = StrCat(
        "the data folder ", path, " cannot be made: ", error.message(), "; choose another folder");
    return read_only ? absl::PermissionDeniedError(message) : absl::InvalidArgumentError(message);
  }
  if (access(path.c_str(), W_OK | R_OK | X_OK) == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(StrCat("the data folder ", path, " cannot be written (",
                                            std::strerror(errno),
                                            "); make it writable or choose another folder"));
}

bool FreeBytes(const std::string& path, uint64_t* bytes) {
  struct statvfs disk;
  if (statvfs(path.c_str(), &disk) != 0) return false;
  *bytes = uint64_t{disk.f_bavail} * disk.f_frsize;
  return true;
}

absl::Status CheckFormatVersion(DocumentStore& store, const std::string& path) {
  uint32_t version = kStoreFormatVersion;
  auto found = store.Get(Table::kSystem, kFormatKey);
  if (absl::IsNotFound(found.status())) {
    WriteSet writes;
    writes.Put(Table::kSystem, kFormatKey,
               std::string(reinterpret_cast<const char*>(&version), sizeof(version)));
    return store.Commit(writes, DocumentStore::Priority::kUrgent);
  }
  if (absl::IsDataLoss(found.status())) {
    Log(LogLevel::kError, "the store's format version is damaged: every record has its own",
        {{"data_dir", path}});
    return absl::OkStatus();
  }
  MSA_RETURN_IF_ERROR(found.status());
  if (found->size() != sizeof(version)) return absl::DataLossError("damaged format version");
  std::memcpy(&version, found->view().data(), sizeof(version));
  if (version == kStoreFormatVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat(
      "the store in ", path, " has format version ", version, "; this program reads version ",
      kStoreFormatVersion, ": use the program that wrote it"));
}

}  // namespace msa::memory_node

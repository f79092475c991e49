#include "memory_node/store_format.h"

#include <cstdint>
#include <cstring>

#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::memory_node {
namespace {

constexpr char kFormatKey[] = "f";
constexpr uint32_t kStoreFormatVersion = 1;

}  // namespace

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

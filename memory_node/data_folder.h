// What is asked of the file system under a store.
#ifndef MSA_MEMORY_NODE_DATA_FOLDER_H_
#define MSA_MEMORY_NODE_DATA_FOLDER_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include "absl/status/status.h"

namespace msa::memory_node {

// Makes the folder where it is missing. PERMISSION_DENIED where it cannot be written,
// INVALID_ARGUMENT where the path is no folder.
absl::Status PrepareFolder(const std::string& path);

// Of the files in the folder; folders in it are left out.
int64_t FileBytes(const std::string& folder);

// False where the system does not say.
bool FreeBytes(const std::string& path, uint64_t* bytes);

// Whether another process serves the folder, as its store's lock says.
bool InUseElsewhere(const std::filesystem::path& folder);

// A file's bytes, or which names a folder has, are on the disk when it returns OK.
absl::Status Sync(const std::filesystem::path& path);

// OK for none; `doing` begins the message. RESOURCE_EXHAUSTED where the disk is full,
// PERMISSION_DENIED where it cannot be written, else UNAVAILABLE.
absl::Status DiskError(const std::error_code& error, std::string_view doing);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_DATA_FOLDER_H_

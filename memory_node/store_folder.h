// The folder of a store, and which format its records have: what does not depend on how they are
// kept.
#ifndef MSA_MEMORY_NODE_STORE_FOLDER_H_
#define MSA_MEMORY_NODE_STORE_FOLDER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "memory_node/document_store.h"

namespace msa::memory_node {

// Makes the folder when it is missing. INVALID_ARGUMENT, PERMISSION_DENIED saying what to do.
absl::Status PrepareFolder(const std::string& path);

// Of its disk. False where the system does not say.
bool FreeBytes(const std::string& path, uint64_t* bytes);

// Writes this program's version to a new store. FAILED_PRECONDITION for another's.
absl::Status CheckFormatVersion(DocumentStore& store, const std::string& path);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_STORE_FOLDER_H_

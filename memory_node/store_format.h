// Which format the records of a store have.
#ifndef MSA_MEMORY_NODE_STORE_FORMAT_H_
#define MSA_MEMORY_NODE_STORE_FORMAT_H_

#include <string>

#include "absl/status/status.h"
#include "memory_node/document_store.h"

namespace msa::memory_node {

// Writes this program's version to a new store, whose folder is `path`. FAILED_PRECONDITION for
// another's.
absl::Status CheckFormatVersion(DocumentStore& store, const std::string& path);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_STORE_FORMAT_H_

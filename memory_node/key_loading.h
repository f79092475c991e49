// The longest part of start-up: a bank's routing keys from the store to its index, on several
// threads, every record verified.
#ifndef MSA_MEMORY_NODE_KEY_LOADING_H_
#define MSA_MEMORY_NODE_KEY_LOADING_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "memory_node/bank.h"
#include "memory_node/document_store.h"

namespace msa::memory_node {

// A document as start-up knows it before its keys are read.
struct FoundDocument {
  std::shared_ptr<DocumentEntry> entry;
  std::vector<int32_t> chunks;  // routing chunks of each part
  std::vector<int32_t> content_chunks;
};

// Installs every document whose keys are whole; of others tells `damaged`, from any thread.
// `documents` by first reference, so that the store is read in its order. Progress goes to the log
// every two seconds. RESOURCE_EXHAUSTED when the keys do not fit in memory; UNAVAILABLE when the
// disk or a GPU fails.
absl::Status LoadKeys(
    DocumentStore& store, const std::shared_ptr<Bank>& bank,
    const std::vector<FoundDocument>& documents,
    const std::function<void(const std::shared_ptr<DocumentEntry>&, const absl::Status&)>& damaged);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_KEY_LOADING_H_

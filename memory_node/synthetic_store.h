// A store of documents that are made up as they are read: a bank of any size to measure the service
// with, without the time and disk that encoding it takes. Keys and content are random numbers, the
// same on every read; everything else, and all that is written, is in memory.
#ifndef MSA_MEMORY_NODE_SYNTHETIC_STORE_H_
#define MSA_MEMORY_NODE_SYNTHETIC_STORE_H_

#include <cstdint>
#include <memory>

#include "memory_node/document_store.h"
#include "rpc/types.h"

namespace msa::memory_node {

struct SyntheticDocuments {
  rpc::BankSpec bank;  // name, uid, fingerprint, layers, shape and precisions
  int64_t count = 0;
  int32_t tokens = 576;  // of each, one part
};

// Documents "synthetic-000000000" …, references from 0 on. They cannot be changed: a delete or a
// replacement of one is forgotten with the process. Thread-safe.
std::unique_ptr<DocumentStore> MakeSyntheticStore(const SyntheticDocuments& documents);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_SYNTHETIC_STORE_H_

#ifndef MSA_TESTS_MEMORY_NODE_BORROWED_STORE_H_
#define MSA_TESTS_MEMORY_NODE_BORROWED_STORE_H_

#include <memory>
#include <string_view>

#include "memory_node/document_store.h"

namespace msa::memory_node {

// A store that a shard may own while a test keeps the real one.
class BorrowedStore : public DocumentStore {
 public:
  explicit BorrowedStore(DocumentStore* store) : store_(store) {}
  absl::Status Commit(const WriteSet& writes, Priority priority) override {
    return store_->Commit(writes, priority);
  }
  absl::StatusOr<rpc::Payload> Get(Table table, std::string_view key) override {
    return store_->Get(table, key);
  }
  std::unique_ptr<Cursor> NewCursor(Table table, bool sequential) override {
    return store_->NewCursor(table, sequential);
  }
  absl::Status Reclaim(Table table, std::string_view begin, std::string_view end,
                       std::atomic<bool>* cancelled) override {
    return store_->Reclaim(table, begin, end, cancelled);
  }
  absl::Status CopyTo(const std::string& folder) override { return store_->CopyTo(folder); }
  int64_t DiskBytes() override { return store_->DiskBytes(); }

 private:
  DocumentStore* store_;
};

}  // namespace msa::memory_node

#endif  // MSA_TESTS_MEMORY_NODE_BORROWED_STORE_H_

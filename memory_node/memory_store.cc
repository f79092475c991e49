// Five ordered maps under one lock. Values are shared with readers, who keep them past a delete;
// cursors work on a copy of the keys, as a snapshot.
#include <array>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/strings.h"
#include "memory_node/document_store.h"

namespace msa::memory_node {
namespace {

using Value = std::shared_ptr<const std::string>;
using Map = std::map<std::string, Value, std::less<>>;

class MapCursor : public Cursor {
 public:
  explicit MapCursor(Map map) : map_(std::move(map)), at_(map_.begin()) {}

  void Seek(std::string_view key) override { at_ = map_.lower_bound(key); }
  void Next() override { ++at_; }
  bool Valid() const override { return at_ != map_.end(); }
  absl::Status status() const override { return absl::OkStatus(); }
  std::string_view key() const override { return at_->first; }
  std::string_view value() const override { return *at_->second; }

 private:
  const Map map_;
  Map::const_iterator at_;
};

std::string Concatenate(const std::vector<std::string_view>& pieces) {
  std::string value;
  for (std::string_view piece : pieces) value.append(piece);
  return value;
}

class MemoryStore : public DocumentStore {
 public:
  absl::Status Commit(const WriteSet& writes, Priority priority) override {
    absl::MutexLock lock(&mutex_);
    for (const WriteSet::Change& change : writes.changes()) Apply(change);
    return absl::OkStatus();
  }

  absl::StatusOr<rpc::Payload> Get(Table table, std::string_view key) override {
    absl::MutexLock lock(&mutex_);
    const Map& map = maps_[static_cast<int>(table)];
    const auto it = map.find(key);
    if (it == map.end()) return absl::NotFoundError(StrCat("no such ", TableName(table)));
    return rpc::Payload(it->second);
  }

  std::unique_ptr<Cursor> NewCursor(Table table, bool sequential) override {
    absl::MutexLock lock(&mutex_);
    return std::make_unique<MapCursor>(maps_[static_cast<int>(table)]);
  }

  absl::Status Reclaim(Table table, std::string_view begin, std::string_view end,
                       std::atomic<bool>* cancelled) override {
    if (*cancelled) return absl::CancelledError("stopping");
    return absl::OkStatus();  // a deleted value is freed with its last reader
  }

  int64_t DiskBytes() override {
    absl::MutexLock lock(&mutex_);
    int64_t bytes = 0;
    for (const Map& map : maps_) {
      for (const auto& [key, value] : map) bytes += key.size() + value->size();
    }
    return bytes;
  }

 private:
  void Apply(const WriteSet::Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Map& map = maps_[static_cast<int>(change.table)];
    switch (change.type) {
      case WriteSet::Change::Type::kPut:
        map[change.key] = std::make_shared<const std::string>(Concatenate(change.pieces));
        return;
      case WriteSet::Change::Type::kDelete:
        map.erase(change.key);
        return;
      case WriteSet::Change::Type::kDeleteRange:
        map.erase(map.lower_bound(change.key), map.lower_bound(change.end_key));
        return;
    }
  }

  absl::Mutex mutex_;
  std::array<Map, kNumTables> maps_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<DocumentStore> MakeMemoryStore() { return std::make_unique<MemoryStore>(); }

}  // namespace msa::memory_node

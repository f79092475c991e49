// Ordered, durable storage under a memory node: five tables of bytes with atomic writes. What the
// bytes mean is memory_node/record_format.h. Two implementations: MakeMemoryStore (no durability;
// also how to write one) and OpenRocksDbStore. One contract suite runs on both.
#ifndef MSA_MEMORY_NODE_DOCUMENT_STORE_H_
#define MSA_MEMORY_NODE_DOCUMENT_STORE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rpc/types.h"

namespace msa::memory_node {

// Column families (docs/storage_format.md).
enum class Table : uint8_t { kMeta = 0, kText = 1, kRouting = 2, kContent = 3, kSystem = 4 };
inline constexpr int kNumTables = 5;
std::string_view TableName(Table table);

// Changes that become visible and durable together, in the order given. Pieces of values are
// borrowed until Commit has returned.
class WriteSet {
 public:
  struct Change {
    enum class Type : uint8_t { kPut, kDelete, kDeleteRange };
    Type type;
    Table table;
    std::string key;
    std::string end_key;                   // kDeleteRange: first key that stays
    std::vector<std::string_view> pieces;  // kPut: the value is their concatenation
  };

  // Takes the value with it.
  void Put(Table table, std::string key, std::string value);
  // Borrows the pieces.
  void PutPieces(Table table, std::string key, std::vector<std::string_view> pieces);
  void Delete(Table table, std::string key);
  // Keys in [begin, end).
  void DeleteRange(Table table, std::string begin, std::string end);

  const std::vector<Change>& changes() const { return changes_; }
  // Of keys and values.
  size_t bytes() const { return bytes_; }
  // Bytes that live as long as this set: for headers of PutPieces.
  std::string_view Keep(std::string bytes);

 private:
  std::vector<Change> changes_;
  std::vector<std::unique_ptr<const std::string>> kept_;
  size_t bytes_ = 0;
};

// A place in one table as it was when the cursor was made; one thread at a time. Must not outlive
// its store.
class Cursor {
 public:
  virtual ~Cursor() = default;
  // To the first key >= `key`. After DATA_LOSS another Seek may succeed: only some keys are lost.
  virtual void Seek(std::string_view key) = 0;
  virtual void Next() = 0;  // REQUIRES: Valid()
  // False at the end and after an error; status() tells which.
  virtual bool Valid() const = 0;
  virtual absl::Status status() const = 0;
  // Valid until the cursor moves. REQUIRES: Valid()
  virtual std::string_view key() const = 0;
  virtual std::string_view value() const = 0;
};

// What a store on disk comes to, and what keeps its writers waiting.
struct StoreUsage {
  struct OfTable {
    int64_t level0_files = 0;  // too many of them delay writes, then stop them
    int64_t sst_bytes = 0;
    int64_t live_data_bytes = 0;  // of these, an estimate of what is not deleted or replaced
    int64_t blob_bytes = 0;       // large values, beside the SST files
    int64_t blob_garbage_bytes = 0;
    int64_t memtable_bytes = 0;  // in the log and in no file yet
    int64_t pending_compaction_bytes = 0;
  };
  std::array<OfTable, kNumTables> tables;
  int64_t block_cache_bytes = 0;
  int64_t running_compactions = 0;
  int64_t running_flushes = 0;
  int64_t background_errors = 0;               // since the start
  int64_t write_stopped = 0;                   // 1: no commit goes on
  int64_t delayed_write_bytes_per_second = 0;  // what all commits may write; 0: not delayed
  int64_t times_stopped = 0;                   // of a table's writes, since the start
  int64_t times_delayed = 0;
};

// Thread-safe; calls block.
class DocumentStore {
 public:
  virtual ~DocumentStore() = default;

  // Atomic and synced to disk when it returns OK; concurrent callers share one sync. Else nothing
  // of it is visible, and a restart finds nothing or all of it: RESOURCE_EXHAUSTED when the disk is
  // full (a later call succeeds once there is space), UNAVAILABLE for other failures of the disk.
  // Urgent commits (deletes, which free space) may use the last of the disk, others leave a
  // reserve.
  enum class Priority : uint8_t { kNormal, kUrgent };
  virtual absl::Status Commit(const WriteSet& writes, Priority priority) = 0;

  // The value without a copy where the store can. NOT_FOUND; DATA_LOSS when the store's own
  // checksum fails.
  virtual absl::StatusOr<rpc::Payload> Get(Table table, std::string_view key) = 0;

  // Begins before the first key. `sequential`: read ahead and leave caches alone.
  virtual std::unique_ptr<Cursor> NewCursor(Table table, bool sequential) = 0;

  // Gives the space of deleted keys in [begin, end) back to the disk; may take long, serves
  // meanwhile. CANCELLED soon after `*cancelled`, with what is done kept.
  virtual absl::Status Reclaim(Table table, std::string_view begin, std::string_view end,
                               std::atomic<bool>* cancelled) = 0;

  // Writes what is committed by then to `folder`, which must not exist, as a store of its own, with
  // links to this one's files where it can; serves meanwhile. Durable when it returns OK; else
  // parts of it may be left there and in FOLDER.tmp. FAILED_PRECONDITION for a store in memory.
  virtual absl::Status CopyTo(const std::string& folder);

  // Bytes the store takes on disk (memory store: in memory), backups left out.
  virtual int64_t DiskBytes() = 0;
  // Read from counters, some tens of microseconds. None of a store that is not on disk.
  virtual std::optional<StoreUsage> Usage() { return std::nullopt; }
};

std::unique_ptr<DocumentStore> MakeMemoryStore();

struct RocksDbOptions {
  std::string path;  // made when missing
  int64_t block_cache_bytes = 64 << 20;
  int64_t write_buffer_bytes = 64 << 20;  // of `routing` and of `content`, each
  int64_t max_wal_bytes = 512 << 20;
  int64_t reserve_bytes = 64 << 20;  // of the disk, kept for deletes and compaction
  bool read_only = false;  // takes no lock and changes nothing; at most 64 files open at once
};

// FAILED_PRECONDITION: another process holds the folder, or another format version wrote it;
// PERMISSION_DENIED: read-only; INVALID_ARGUMENT: the path is no folder; DATA_LOSS: damaged where
// start-up cannot go round it; each says what to do.
absl::StatusOr<std::unique_ptr<DocumentStore>> OpenRocksDbStore(const RocksDbOptions& options);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_DOCUMENT_STORE_H_

// The one file that knows RocksDB. Start-up decisions (recovery mode, what happens on damage):
// docs/storage_format.md "Damage".
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/utilities/table_properties_collectors.h>
#include <rocksdb/wal_filter.h>
#include <rocksdb/write_batch.h>

#include <atomic>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/synchronization/mutex.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "memory_node/data_folder.h"
#include "memory_node/disk_room.h"
#include "memory_node/document_store.h"
#include "memory_node/store_format.h"

namespace msa::memory_node {
namespace {

constexpr uint64_t kMinBlobBytes = 4 << 10;

rocksdb::Slice ToSlice(std::string_view bytes) { return {bytes.data(), bytes.size()}; }
std::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

// `doing` begins the message: "write to the store in /data".
absl::Status ToStatus(const rocksdb::Status& status, std::string_view doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = StrCat(doing, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsNoSpace()) {
    return absl::ResourceExhaustedError(
        StrCat("the disk is full; free space or delete documents (", message, ")"));
  }
  if (status.IsCorruption() || status.IsNotSupported() || status.IsInvalidArgument()) {
    return absl::DataLossError(message);
  }
  return absl::UnavailableError(message);
}

// A hole in a log is silent to RocksDB where a page of it reads as zeroes. Batches of one log
// follow one another without a gap in their sequence numbers, so a gap is damage.
class GapFinder : public rocksdb::WalFilter {
 public:
  const char* Name() const override { return "msa.GapFinder"; }

  void ColumnFamilyLogNumberMap(const std::map<uint32_t, uint64_t>&,
                                const std::map<std::string, uint32_t>&) override {
    replay_started_ = true;
  }

  WalProcessingOption LogRecordFound(unsigned long long log_number, const std::string& log,
                                     const rocksdb::WriteBatch& batch, rocksdb::WriteBatch*,
                                     bool*) override {
    uint64_t sequence;  // the first 8 bytes of a batch, then its count
    std::memcpy(&sequence, batch.Data().data(), sizeof(sequence));
    const bool gap = log_number == log_number_ && sequence != next_sequence_;
    log_number_ = log_number;
    next_sequence_ = sequence + batch.Count();
    if (!gap) return WalProcessingOption::kContinueProcessing;
    gap_log_ = log;
    return WalProcessingOption::kCorruptedRecord;
  }

  bool replay_started() const { return replay_started_; }
  const std::string& gap_log() const { return gap_log_; }

 private:
  bool replay_started_ = false;
  unsigned long long log_number_ = 0;
  uint64_t next_sequence_ = 0;
  std::string gap_log_;
};

// Sees whether RocksDB let damage in a log pass, which it does without paranoid_checks.
class IgnoredDamageLogger : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list args) override {
    char line[1024];
    std::vsnprintf(line, sizeof(line), format, args);
    if (std::strstr(line, "(ignoring error)") != nullptr) damage_ = line;
  }
  const std::string& damage() const { return damage_; }

 private:
  std::string damage_;
};

// RocksDB would poll a full disk every five seconds and be "busy" meanwhile. The next commit knows
// better when to try again.
class NoPolling : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

// Counts how often a table's writes began to be delayed or stopped: what is so now is missed
// between two looks.
class StallCounter : public rocksdb::EventListener {
 public:
  void OnStallConditionsChanged(const rocksdb::WriteStallInfo& info) override {
    if (info.condition.cur == info.condition.prev) return;
    if (info.condition.cur == rocksdb::WriteStallCondition::kStopped) ++stopped_;
    if (info.condition.cur == rocksdb::WriteStallCondition::kDelayed) ++delayed_;
  }
  int64_t stopped() const { return stopped_; }
  int64_t delayed() const { return delayed_; }

 private:
  std::atomic<int64_t> stopped_ = 0, delayed_ = 0;
};

// The open database with its families; closed when the store and every pinned value are gone.
struct Database {
  ~Database() {
    // An orderly end leaves tables, which load faster than a log replays: nothing else.
    if (writable && db != nullptr)
      db->Flush(rocksdb::FlushOptions(), families).PermitUncheckedError();
    for (auto* family : families) {
      if (db != nullptr) db->DestroyColumnFamilyHandle(family);
    }
    if (db != nullptr) db->Close();
  }
  std::unique_ptr<rocksdb::DB> db;
  bool writable = false;
  const std::shared_ptr<StallCounter> stalls = std::make_shared<StallCounter>();
  std::vector<rocksdb::ColumnFamilyHandle*> families;  // by Table, then "default"
};

struct Pin {
  std::shared_ptr<Database> database;
  rocksdb::PinnableSlice slice;  // released before the database
};

class RocksCursor : public Cursor {
 public:
  RocksCursor(std::unique_ptr<rocksdb::Iterator> iterator, std::string doing)
      : iterator_(std::move(iterator)), doing_(std::move(doing)) {
    iterator_->SeekToFirst();
  }
  void Seek(std::string_view key) override { iterator_->Seek(ToSlice(key)); }
  void Next() override { iterator_->Next(); }
  bool Valid() const override { return iterator_->Valid(); }
  absl::Status status() const override { return ToStatus(iterator_->status(), doing_); }
  std::string_view key() const override { return ToView(iterator_->key()); }
  std::string_view value() const override { return ToView(iterator_->value()); }

 private:
  std::unique_ptr<rocksdb::Iterator> iterator_;
  std::string doing_;
};

// Of a copy, beside the manifest and the flush, whose room documents left: the end of the log.
constexpr size_t kCopiedBytes = 1 << 20;

class RocksDbStore : public DocumentStore {
 public:
  RocksDbStore(std::shared_ptr<Database> database, const RocksDbOptions& options)
      : database_(std::move(database)),
        options_(options),
        room_(options.path, options.reserve_bytes) {}

  absl::Status Commit(const WriteSet& writes, Priority priority) override {
    if (priority == Priority::kUrgent) FlushIfTight();
    MSA_RETURN_IF_ERROR(Admit(writes.bytes(), priority));
    const absl::Cleanup written = [&] { room_.Written(writes.bytes()); };
    rocksdb::WriteBatch batch(writes.bytes() + 64 * writes.changes().size());
    for (const auto& change : writes.changes()) AddTo(change, &batch);
    rocksdb::WriteOptions sync;
    sync.sync = true;
    rocksdb::Status status = db().Write(sync, &batch);
    // After a failed write RocksDB refuses all others until told that the cause may be gone.
    if (!status.ok() && Resume()) status = db().Write(sync, &batch);
    return ToStatus(status, StrCat("write to the store in ", options_.path));
  }

  absl::StatusOr<rpc::Payload> Get(Table table, std::string_view key) override {
    auto pin = std::make_shared<Pin>(Pin{database_, {}});
    const rocksdb::Status status =
        db().Get(rocksdb::ReadOptions(), family(table), ToSlice(key), &pin->slice);
    if (!status.ok()) return ToStatus(status, StrCat("read of ", TableName(table)));
    const std::string_view view = ToView(pin->slice);
    return rpc::Payload(view, std::move(pin));
  }

  std::unique_ptr<Cursor> NewCursor(Table table, bool sequential) override {
    rocksdb::ReadOptions read;
    read.fill_cache = !sequential;
    if (sequential) read.readahead_size = 2 << 20;
    return std::make_unique<RocksCursor>(
        std::unique_ptr<rocksdb::Iterator>(db().NewIterator(read, family(table))),
        StrCat("scan of ", TableName(table)));
  }

  absl::Status Reclaim(Table table, std::string_view begin, std::string_view end,
                       std::atomic<bool>* cancelled) override {
    const rocksdb::Slice first = ToSlice(begin), last = ToSlice(end);
    rocksdb::CompactRangeOptions compact;
    compact.exclusive_manual_compaction = false;
    compact.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
    compact.canceled = cancelled;
    const rocksdb::Status status = db().CompactRange(compact, family(table), &first, &last);
    if (status.IsManualCompactionPaused()) return absl::CancelledError("stopping");
    return ToStatus(status, StrCat("compaction of ", TableName(table)));
  }

  absl::Status CopyTo(const std::string& folder) override {
    std::vector<std::string> files;
    uint64_t manifest_bytes = 0;
    db().GetLiveFiles(files, &manifest_bytes, /*flush_memtable=*/false).PermitUncheckedError();
    const size_t bytes = kCopiedBytes + manifest_bytes;
    MSA_RETURN_IF_ERROR(Admit(bytes, Priority::kNormal));
    const absl::Cleanup written = [&] { room_.Written(bytes); };
    rocksdb::Status status = MakeCheckpoint(folder);
    // As after a failed write; what was invalid is so again, as a folder that exists.
    if (!status.ok() && !status.IsInvalidArgument() && Resume()) {
      std::error_code ignored;
      std::filesystem::remove_all(folder, ignored);
      status = MakeCheckpoint(folder);
    }
    return ToStatus(status, StrCat("copy of the store in ", options_.path, " to ", folder));
  }

  std::optional<StoreUsage> Usage() override {
    using Properties = rocksdb::DB::Properties;
    StoreUsage usage;
    for (int i = 0; i < kNumTables; ++i) {
      rocksdb::ColumnFamilyHandle* of = database_->families[i];
      StoreUsage::OfTable& table = usage.tables[i];
      table.level0_files = Property(of, Properties::kNumFilesAtLevelPrefix + "0");
      table.sst_bytes = Property(of, Properties::kLiveSstFilesSize);
      table.live_data_bytes = Property(of, Properties::kEstimateLiveDataSize);
      table.blob_bytes = Property(of, Properties::kLiveBlobFileSize);
      table.blob_garbage_bytes = Property(of, Properties::kLiveBlobFileGarbageSize);
      table.memtable_bytes = Property(of, Properties::kCurSizeAllMemTables);
      table.pending_compaction_bytes = Property(of, Properties::kEstimatePendingCompactionBytes);
    }
    // Of the database, or of the one cache, whichever family is asked.
    rocksdb::ColumnFamilyHandle* any = family(Table::kMeta);
    usage.block_cache_bytes = Property(any, Properties::kBlockCacheUsage);
    usage.running_compactions = Property(any, Properties::kNumRunningCompactions);
    usage.running_flushes = Property(any, Properties::kNumRunningFlushes);
    usage.background_errors = Property(any, Properties::kBackgroundErrors);
    usage.write_stopped = Property(any, Properties::kIsWriteStopped);
    usage.delayed_write_bytes_per_second = Property(any, Properties::kActualDelayedWriteRate);
    usage.times_stopped = database_->stalls->stopped();
    usage.times_delayed = database_->stalls->delayed();
    return usage;
  }

  int64_t DiskBytes() override { return FileBytes(options_.path); }

 private:
  rocksdb::DB& db() { return *database_->db; }
  // 0 where RocksDB does not know it.
  int64_t Property(rocksdb::ColumnFamilyHandle* of, const std::string& name) {
    std::string value;
    return db().GetProperty(of, name, &value) ? std::atoll(value.c_str()) : 0;
  }
  rocksdb::ColumnFamilyHandle* family(Table table) {
    return database_->families[static_cast<int>(table)];
  }

  bool Resume() {
    absl::MutexLock one_at_a_time(&resume_mutex_);
    return db().Resume().ok();
  }

  rocksdb::Status MakeCheckpoint(const std::string& folder) {
    rocksdb::Checkpoint* made = nullptr;
    const rocksdb::Status status = rocksdb::Checkpoint::Create(&db(), &made);
    const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
    return status.ok() ? checkpoint->CreateCheckpoint(folder) : status;
  }

  // What is in the log and has still to be written to files.
  uint64_t UnflushedBytes() {
    uint64_t bytes = 0;
    db().GetAggregatedIntProperty(rocksdb::DB::Properties::kCurSizeAllMemTables, &bytes);
    return bytes;
  }

  absl::Status Admit(size_t bytes, Priority priority) {
    return room_.Admit(bytes, priority == Priority::kNormal, [this] { return UnflushedBytes(); });
  }

  // Before tombstones take the room of what a flush has to write: once all is in files, the logs
  // go, which are as large.
  void FlushIfTight() {
    const uint64_t unflushed = UnflushedBytes();
    uint64_t free_bytes;
    if (unflushed < kLastFreeBytes || !FreeBytes(options_.path, &free_bytes)) return;
    if (free_bytes >= unflushed + kMinFreeBytes || free_bytes < unflushed + kLastFreeBytes) return;
    if (!flush_mutex_.TryLock()) return;  // another does
    db().Flush(rocksdb::FlushOptions(), database_->families).PermitUncheckedError();
    flush_mutex_.Unlock();
  }

  void AddTo(const WriteSet::Change& change, rocksdb::WriteBatch* batch) {
    rocksdb::ColumnFamilyHandle* cf = family(change.table);
    switch (change.type) {
      case WriteSet::Change::Type::kPut: {
        const rocksdb::Slice key = ToSlice(change.key);
        std::vector<rocksdb::Slice> pieces;
        for (std::string_view piece : change.pieces) pieces.push_back(ToSlice(piece));
        batch->Put(cf, rocksdb::SliceParts(&key, 1),
                   rocksdb::SliceParts(pieces.data(), static_cast<int>(pieces.size())));
        return;
      }
      case WriteSet::Change::Type::kDelete:
        batch->Delete(cf, ToSlice(change.key));
        return;
      case WriteSet::Change::Type::kDeleteRange:
        batch->DeleteRange(cf, ToSlice(change.key), ToSlice(change.end_key));
        return;
    }
  }

  const std::shared_ptr<Database> database_;
  const RocksDbOptions options_;
  absl::Mutex resume_mutex_;
  absl::Mutex flush_mutex_;
  DiskRoom room_;
};

rocksdb::DBOptions MakeDbOptions(const RocksDbOptions& options, bool paranoid, GapFinder* gaps) {
  rocksdb::DBOptions db;
  db.wal_filter = gaps;
  db.create_if_missing = true;
  db.create_missing_column_families = true;
  db.paranoid_checks = paranoid;
  db.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  db.track_and_verify_wals_in_manifest = true;
  db.max_total_wal_size = options.max_wal_bytes;
  // What is written and synced together: forty passages of a burst, not ten.
  db.max_write_batch_group_size_bytes = 4 << 20;
  db.max_background_jobs = 2;
  db.bytes_per_sync = 1 << 20;
  // Space allocated ahead (70 MB a log) would be missing where the room for flushes is counted.
  db.allow_fallocate = false;
  // Opened beside the one that is served, which has its descriptors.
  if (options.read_only) db.max_open_files = 64;
  db.keep_log_file_num = 4;
  db.skip_stats_update_on_db_open = true;
  db.avoid_unnecessary_blocking_io = true;
  db.listeners.push_back(std::make_shared<NoPolling>());
  return db;
}

rocksdb::ColumnFamilyOptions MakeFamilyOptions(Table table, const RocksDbOptions& options,
                                               const std::shared_ptr<rocksdb::Cache>& cache) {
  const bool large = table == Table::kRouting || table == Table::kContent;
  rocksdb::BlockBasedTableOptions blocks;
  blocks.block_cache = cache;
  blocks.format_version = 5;
  blocks.block_size = large ? 16 << 10 : 4 << 10;
  blocks.filter_policy.reset(rocksdb::NewBloomFilterPolicy(/*bits_per_key=*/10));
  rocksdb::ColumnFamilyOptions family;
  family.table_factory.reset(rocksdb::NewBlockBasedTableFactory(blocks));
  // Tensors do not compress; texts do.
  family.compression = large ? rocksdb::kNoCompression : rocksdb::kLZ4Compression;
  family.write_buffer_size = large ? options.write_buffer_bytes : 8 << 20;
  // A burst of documents must not throttle the delete behind it.
  family.level0_slowdown_writes_trigger = 40;
  family.level0_stop_writes_trigger = 60;
  // Where half of a stretch of keys is deleted, compact: space comes back without waiting for size.
  family.table_properties_collector_factories.push_back(
      rocksdb::NewCompactOnDeletionCollectorFactory(
          /*sliding_window_size=*/4096, /*deletion_trigger=*/2048, /*deletion_ratio=*/0.5));
  if (table == Table::kContent) {
    family.enable_blob_files = true;
    family.min_blob_size = kMinBlobBytes;
    family.enable_blob_garbage_collection = true;
    family.blob_garbage_collection_age_cutoff = 0.5;
    family.blob_garbage_collection_force_threshold = 0.5;
  }
  return family;
}

std::vector<rocksdb::ColumnFamilyDescriptor> MakeFamilies(const RocksDbOptions& options) {
  const auto cache = rocksdb::NewLRUCache(options.block_cache_bytes);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (int i = 0; i < kNumTables; ++i) {
    const Table table = static_cast<Table>(i);
    families.emplace_back(std::string(TableName(table)), MakeFamilyOptions(table, options, cache));
  }
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, rocksdb::ColumnFamilyOptions());
  return families;
}

absl::Status OpenError(const rocksdb::Status& status, const std::string& path,
                       const GapFinder& gaps) {
  const std::string text = status.ToString();
  if (status.IsIOError() && text.find("lock") != std::string::npos) {
    return absl::FailedPreconditionError(
        StrCat("the data folder ", path,
               " is in use by another process; stop it or choose another folder (", text, ")"));
  }
  if (status.IsInvalidArgument() && text.find("olumn famil") != std::string::npos) {
    return absl::FailedPreconditionError(StrCat("the data folder ", path,
                                                " was written by a newer program (", text,
                                                "); use that program"));
  }
  if (status.IsCorruption()) {
    const std::string hole =
        gaps.gap_log().empty() ? "" : StrCat("; records are missing in ", gaps.gap_log());
    return absl::DataLossError(
        StrCat("the store in ", path, " is damaged: ", text, hole,
               "; nothing was changed: restore the folder from a backup or a replica"));
  }
  return ToStatus(status, StrCat("open of the store in ", path));
}

rocksdb::Status Open(const rocksdb::DBOptions& db_options, const RocksDbOptions& options,
                     bool read_only, Database* database) {
  rocksdb::DB* db = nullptr;
  const auto families = MakeFamilies(options);
  const rocksdb::Status status =
      read_only ? rocksdb::DB::OpenForReadOnly(db_options, options.path, families,
                                               &database->families, &db)
                : rocksdb::DB::Open(db_options, options.path, families, &database->families, &db);
  database->db.reset(db);
  database->writable = status.ok() && !read_only;
  return status;
}

rocksdb::Status TryOpen(const RocksDbOptions& options, bool paranoid, GapFinder* gaps,
                        Database* database) {
  rocksdb::DBOptions db_options = MakeDbOptions(options, paranoid, gaps);
  db_options.listeners.push_back(database->stalls);
  return Open(db_options, options, options.read_only, database);
}

// Whether the logs replay without loss, found out without changing anything on disk.
absl::Status ProbeLogs(const RocksDbOptions& options) {
  GapFinder gaps;
  auto logger = std::make_shared<IgnoredDamageLogger>();
  rocksdb::DBOptions db_options = MakeDbOptions(options, /*paranoid=*/false, &gaps);
  db_options.info_log = logger;
  Database probe;
  const rocksdb::Status status = Open(db_options, options, /*read_only=*/true, &probe);
  if (!status.ok()) return OpenError(status, options.path, gaps);
  if (logger->damage().empty() && gaps.gap_log().empty()) return absl::OkStatus();
  return OpenError(rocksdb::Status::Corruption(logger->damage()), options.path, gaps);
}

// A table file that cannot be opened fails RocksDB's paranoid start. Then, and only when the logs
// are whole, start without: the documents in that file are found damaged one by one, others go on.
absl::Status OpenDatabase(const RocksDbOptions& options, std::shared_ptr<Database>* database) {
  GapFinder gaps;
  *database = std::make_shared<Database>();
  rocksdb::Status status = TryOpen(options, /*paranoid=*/true, &gaps, database->get());
  if (status.IsCorruption() && !gaps.replay_started()) {
    MSA_RETURN_IF_ERROR(ProbeLogs(options));
    Log(LogLevel::kError, "the store has a damaged file: starting without it",
        {{"data_dir", options.path}, {"why", status.ToString()}});
    *database = std::make_shared<Database>();
    status = TryOpen(options, /*paranoid=*/false, &gaps, database->get());
  }
  return status.ok() ? absl::OkStatus() : OpenError(status, options.path, gaps);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentStore>> OpenRocksDbStore(const RocksDbOptions& options) {
  if (!options.read_only) MSA_RETURN_IF_ERROR(PrepareFolder(options.path));
  std::shared_ptr<Database> database;
  MSA_RETURN_IF_ERROR(OpenDatabase(options, &database));
  auto store = std::make_unique<RocksDbStore>(std::move(database), options);
  MSA_RETURN_IF_ERROR(CheckFormatVersion(*store, options.path));
  return store;
}

}  // namespace msa::memory_node

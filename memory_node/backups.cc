#include "memory_node/backups.h"

#include <sys/stat.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "common/block_record.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "memory_node/data_folder.h"
#include "memory_node/record_format.h"
#include "memory_node/recovery.h"
#include "rpc/caller.h"

namespace msa::memory_node {
namespace {

namespace fs = std::filesystem;

// What is being made or deleted; never a backup's name, since it begins with a '.'.
constexpr char kPartial[] = ".partial";
constexpr int64_t kCountingCacheBytes = 8 << 20;
constexpr int64_t kRecordsPerLook = 4096;  // for whether the caller is still there

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxBackupNameBytes && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

// ".NAME.partial", or RocksDB's ".NAME.partial.tmp". Others' files may look much the same.
bool IsPartial(std::string_view name) {
  constexpr std::string_view kTmp = ".tmp", kEnd = kPartial;
  if (name.ends_with(kTmp)) name.remove_suffix(kTmp.size());
  if (!name.starts_with('.') || !name.ends_with(kEnd)) return false;
  return name.size() > kEnd.size() && IsName(name.substr(1, name.size() - 1 - kEnd.size()));
}

// A folder itself, no link to one, with a store in it.
bool IsBackup(const fs::path& path) {
  std::error_code none;
  return fs::is_directory(fs::symlink_status(path, none)) &&
         fs::is_regular_file(path / "CURRENT", none);
}

absl::Status CheckName(std::string_view name) {
  if (IsName(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("a backup's name is 1 to ", kMaxBackupNameBytes,
             " letters, digits, '.', '_' and '-', and does not begin with a '.': the server "
             "chooses the folder"));
}

// What is left is in nobody's way: a later attempt removes it.
void Remove(const fs::path& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

rpc::Backup Describe(const fs::path& path) {
  rpc::Backup backup;
  backup.name = path.filename().string();
  backup.path = path.string();
  struct stat status;
  if (stat(path.c_str(), &status) == 0) {
    backup.made_unix_micros =
        int64_t{status.st_mtim.tv_sec} * 1'000'000 + status.st_mtim.tv_nsec / 1000;
  }
  std::error_code error;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    if (lstat(it->path().c_str(), &status) != 0 || !S_ISREG(status.st_mode)) continue;
    backup.bytes += status.st_size;
    if (status.st_nlink == 1) backup.unshared_bytes += status.st_size;
  }
  return backup;
}

// Opens the store in `folder`, as a start does, and counts in the banks that a start would serve.
absl::StatusOr<int64_t> CountDocuments(const rpc::CallContext& ctx, const fs::path& folder) {
  MSA_ASSIGN_OR_RETURN(const auto store, OpenRocksDbStore({.path = folder.string(),
                                                           .block_cache_bytes = kCountingCacheBytes,
                                                           .read_only = true}));
  int64_t damaged = 0;
  MSA_ASSIGN_OR_RETURN(const auto banks, ReadBanks(*store, &damaged));
  int64_t documents = 0, records = 0;
  auto cursor = store->NewCursor(Table::kMeta, /*sequential=*/true);
  for (const auto& [uid, spec] : banks) {
    const std::string prefix = BankPrefix(uid), end = PrefixEnd(prefix);
    for (cursor->Seek(prefix); cursor->Valid() && cursor->key() < end; cursor->Next()) {
      if (++records % kRecordsPerLook == 0) MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
      const auto record = DecodeRecord(cursor->value());
      documents += record.ok() && record->identity.kind == RecordKind::kDocument;
    }
    // Of a damaged store those that can be read: it is served, and copied, too.
    if (!cursor->status().ok() && !absl::IsDataLoss(cursor->status())) return cursor->status();
  }
  return documents;
}

}  // namespace

FolderBackups::FolderBackups(DocumentStore* store, const std::string& data_folder,
                             std::vector<std::string> others)
    : store_(store),
      data_folder_(fs::absolute(data_folder)),
      folder_(data_folder_ / "backups"),
      others_(std::move(others)) {
  std::vector<fs::path> left;
  std::error_code none;
  for (fs::directory_iterator it(folder_, none), end; !none && it != end; it.increment(none)) {
    const std::string name = it->path().filename().string();
    if (IsPartial(name)) left.push_back(it->path());
  }
  for (const fs::path& path : left) {
    Log(LogLevel::kInfo, "removing what is left of an unfinished backup",
        {{"path", path.string()}});
    Remove(path);
  }
}

absl::StatusOr<std::vector<std::string>> FolderBackups::Names() const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (IsName(name) && IsBackup(it->path())) names.push_back(std::move(name));
  }
  if (error == std::errc::no_such_file_or_directory) return names;
  MSA_RETURN_IF_ERROR(DiskError(error, StrCat("list of ", folder_.string())));
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status FolderBackups::BeginTurn(const rpc::CallContext& ctx) {
  absl::MutexLock lock(&mutex_);
  const auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !busy_; };
  MSA_RETURN_IF_ERROR(rpc::AwaitFor(ctx, mutex_, absl::Condition(&free),
                                    "another backup was being made or deleted till the deadline"));
  MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
  busy_ = true;
  return absl::OkStatus();
}

void FolderBackups::EndTurn() {
  absl::MutexLock lock(&mutex_);
  busy_ = false;
}

absl::Status FolderBackups::Fill(const fs::path& partial) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  MSA_RETURN_IF_ERROR(DiskError(error, StrCat("making ", folder_.string())));
  MSA_RETURN_IF_ERROR(Sync(data_folder_));
  MSA_RETURN_IF_ERROR(store_->CopyTo(partial.string()));
  for (const std::string& other : others_) {
    const fs::path from = data_folder_ / other, to = partial / other;
    if (!fs::exists(from, error)) continue;
    fs::copy_file(from, to, error);
    MSA_RETURN_IF_ERROR(DiskError(error, StrCat("copy of ", from.string())));
    MSA_RETURN_IF_ERROR(Sync(to));
  }
  return Sync(partial);
}

absl::StatusOr<std::vector<rpc::Backup>> FolderBackups::CreateBackup(const rpc::CallContext& ctx,
                                                                     const std::string& name) {
  MSA_RETURN_IF_ERROR(CheckName(name));
  MSA_RETURN_IF_ERROR(BeginTurn(ctx));
  const absl::Cleanup turn = [this] { EndTurn(); };
  MSA_ASSIGN_OR_RETURN(const std::vector<std::string> names, Names());
  const fs::path path = folder_ / name, partial = folder_ / StrCat(".", name, kPartial);
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(path, ignored))) {
    return absl::AlreadyExistsError(
        IsBackup(path)
            ? StrCat("there is a backup '", name, "': take another name, or msa backup rm it first")
            : StrCat(path.string(), " is there and is no backup: take another name"));
  }
  if (names.size() >= kMaxBackups) {
    return absl::ResourceExhaustedError(
        StrCat("there are ", kMaxBackups, " backups, the limit: msa backup rm some"));
  }
  const auto tidy = [&] {
    Remove(partial);
    Remove(partial.string() + ".tmp");
  };
  tidy();  // what could not be removed before
  const absl::Cleanup at_the_end = tidy;
  MSA_RETURN_IF_ERROR(Fill(partial));
  MSA_ASSIGN_OR_RETURN(const int64_t documents, CountDocuments(ctx, partial));
  MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));  // who has gone would not know of it
  std::error_code error;
  fs::rename(partial, path, error);
  MSA_RETURN_IF_ERROR(DiskError(error, StrCat("renaming to ", path.string())));
  if (const absl::Status durable = Sync(folder_); !durable.ok()) {
    Remove(path);
    return durable;
  }
  rpc::Backup backup = Describe(path);
  backup.num_documents = documents;
  Log(LogLevel::kInfo, "made a backup",
      {{"name", name}, {"documents", documents}, {"bytes", backup.bytes}});
  return std::vector<rpc::Backup>{std::move(backup)};
}

absl::StatusOr<std::vector<rpc::Backup>> FolderBackups::ListBackups(const rpc::CallContext& ctx) {
  std::vector<rpc::Backup> backups;
  MSA_ASSIGN_OR_RETURN(const std::vector<std::string> names, Names());
  for (const std::string& name : names) {
    MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
    rpc::Backup backup = Describe(folder_ / name);
    if (IsBackup(folder_ / name)) backups.push_back(std::move(backup));  // else deleted meanwhile
  }
  return backups;
}

absl::Status FolderBackups::DeleteBackup(const rpc::CallContext& ctx, const std::string& name) {
  MSA_RETURN_IF_ERROR(CheckName(name));
  MSA_RETURN_IF_ERROR(BeginTurn(ctx));
  const absl::Cleanup turn = [this] { EndTurn(); };
  const fs::path path = folder_ / name, partial = folder_ / StrCat(".", name, kPartial);
  std::error_code error;
  if (IsBackup(path)) {
    if (InUseElsewhere(path)) {
      return absl::FailedPreconditionError(
          StrCat("backup '", name, "' is in use by another process; stop it first"));
    }
    Remove(partial);
    fs::rename(path, partial, error);
    MSA_RETURN_IF_ERROR(DiskError(error, StrCat("renaming of ", path.string())));
    MSA_RETURN_IF_ERROR(Sync(folder_));
  } else if (!fs::exists(fs::symlink_status(partial, error))) {
    return absl::NotFoundError(StrCat("there is no backup '", name, "': see msa backup ls"));
  }
  fs::remove_all(partial, error);
  MSA_RETURN_IF_ERROR(DiskError(error, StrCat("removal of ", partial.string())));
  Log(LogLevel::kInfo, "deleted a backup", {{"name", name}});
  return Sync(folder_);
}

}  // namespace msa::memory_node

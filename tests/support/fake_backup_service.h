// Backups of nothing, by name, in memory.
#ifndef MSA_TESTS_SUPPORT_FAKE_BACKUP_SERVICE_H_
#define MSA_TESTS_SUPPORT_FAKE_BACKUP_SERVICE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/status_macros.h"
#include "rpc/backup_service.h"
#include "rpc/caller.h"

namespace msa::testing {

// Thread-safe.
class FakeBackupService : public rpc::BackupService {
 public:
  absl::StatusOr<std::vector<rpc::Backup>> CreateBackup(const rpc::CallContext& ctx,
                                                        const std::string& name) override {
    MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
    absl::MutexLock lock(&mutex_);
    if (!error_.ok()) return error_;
    if (backups_.count(name) > 0) return absl::AlreadyExistsError("there is a backup already");
    backups_[name] = {.shard = "",
                      .name = name,
                      .path = "/data/backups/" + name,
                      .bytes = 3'000'000,
                      .unshared_bytes = 20'000,
                      .made_unix_micros = 1'800'000'000'000'000,
                      .num_documents = 300};
    return std::vector<rpc::Backup>{backups_[name]};
  }
  absl::StatusOr<std::vector<rpc::Backup>> ListBackups(const rpc::CallContext& ctx) override {
    MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
    absl::MutexLock lock(&mutex_);
    if (!error_.ok()) return error_;
    std::vector<rpc::Backup> listed;
    for (const auto& [name, backup] : backups_) {
      listed.push_back(backup);
      listed.back().num_documents = 0;
    }
    return listed;
  }
  absl::Status DeleteBackup(const rpc::CallContext& ctx, const std::string& name) override {
    MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
    absl::MutexLock lock(&mutex_);
    if (!error_.ok()) return error_;
    if (!delete_error_.ok()) return delete_error_;
    return backups_.erase(name) > 0 ? absl::OkStatus() : absl::NotFoundError("there is none");
  }

  // What every call says from then on; OK: none.
  void set_error(absl::Status error) {
    absl::MutexLock lock(&mutex_);
    error_ = std::move(error);
  }
  // What deletes alone say.
  void set_delete_error(absl::Status error) {
    absl::MutexLock lock(&mutex_);
    delete_error_ = std::move(error);
  }

 private:
  absl::Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  absl::Status delete_error_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, rpc::Backup> backups_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_FAKE_BACKUP_SERVICE_H_

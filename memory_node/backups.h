// Copies of a data folder, made while it is served (docs/decisions/0021): DATA/backups/NAME, each a
// data folder itself, whose large files are links to those of the original.
#ifndef MSA_MEMORY_NODE_BACKUPS_H_
#define MSA_MEMORY_NODE_BACKUPS_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "memory_node/document_store.h"
#include "rpc/backup_service.h"

namespace msa::memory_node {

inline constexpr size_t kMaxBackupNameBytes = 128;
inline constexpr size_t kMaxBackups = 1024;

// One is made or deleted at a time; who waits for that waits no longer than its call lasts.
class FolderBackups : public rpc::BackupService {
 public:
  // `store`, borrowed, is that of `data_folder` and holds its lock. `others`: names of files that
  // belong to a data folder beside the store's. Removes what a crash left of a backup, and logs it.
  FolderBackups(DocumentStore* store, const std::string& data_folder,
                std::vector<std::string> others);

  // Made under another name, opened, counted and synced before it has its own.
  absl::StatusOr<std::vector<rpc::Backup>> CreateBackup(const rpc::CallContext& ctx,
                                                        const std::string& name) override;
  absl::StatusOr<std::vector<rpc::Backup>> ListBackups(const rpc::CallContext& ctx) override;
  // Under another name first: what a crash or an error leaves is no backup, and is removed when it
  // is asked for again. FAILED_PRECONDITION while another process serves it.
  absl::Status DeleteBackup(const rpc::CallContext& ctx, const std::string& name) override;

 private:
  absl::Status Fill(const std::filesystem::path& partial) const;
  absl::StatusOr<std::vector<std::string>> Names() const;
  // Until EndTurn nobody else makes or deletes one. CheckCaller's error for who waited in vain.
  absl::Status BeginTurn(const rpc::CallContext& ctx);
  void EndTurn();

  DocumentStore* const store_;
  const std::filesystem::path data_folder_;
  const std::filesystem::path folder_;  // of the backups
  const std::vector<std::string> others_;
  absl::Mutex mutex_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_BACKUPS_H_

// Copies of a data folder, made while it is served (docs/decisions/0021): DATA/backups/NAME, each a
// data folder itself, whose large files are links to those of the original.
#ifndef MSA_MEMORY_NODE_BACKUPS_H_
#define MSA_MEMORY_NODE_BACKUPS_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "memory_node/document_store.h"
#include "rpc/backup_service.h"

namespace msa::memory_node {

inline constexpr size_t kMaxBackupNameBytes = 128;
inline constexpr size_t kMaxBackups = 1024;

// One is made or deleted at a time.
class FolderBackups : public rpc::BackupService {
 public:
  // `store`, borrowed, is that of `data_folder` and holds its lock. `others`: names of files that
  // belong to a data folder beside the store's. Removes what a crash left of a backup.
  FolderBackups(DocumentStore* store, const std::string& data_folder,
                std::vector<std::string> others);

  // Made under another name, opened, counted and synced before it has its own.
  absl::StatusOr<std::vector<rpc::Backup>> CreateBackup(const rpc::CallContext& ctx,
                                                        const std::string& name) override;
  absl::StatusOr<std::vector<rpc::Backup>> ListBackups(const rpc::CallContext& ctx) override;
  // Under another name first: what a crash leaves is no backup.
  absl::Status DeleteBackup(const rpc::CallContext& ctx, const std::string& name) override;

 private:
  absl::Status Fill(const std::filesystem::path& partial) const;
  absl::StatusOr<std::vector<std::string>> Names() const;

  DocumentStore* const store_;
  const std::filesystem::path data_folder_;
  const std::filesystem::path folder_;  // of the backups
  const std::vector<std::string> others_;
  absl::Mutex mutex_;
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_BACKUPS_H_

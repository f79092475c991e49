// Backups of all shards of a map under one name.
#ifndef MSA_ROUTER_BACKUPS_H_
#define MSA_ROUTER_BACKUPS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rpc/backup_service.h"
#include "rpc/shard_map.h"
#include "rpc/worker_pool.h"

namespace msa::router {

// Errors name the shard. Each shard's backup is what it was at a moment of the call, which is not
// the same moment for all: no document is on two shards, so that each is whole.
class ClusterBackups : public rpc::BackupService {
 public:
  // `shards`: one an entry of `map`, borrowed.
  ClusterBackups(const rpc::ShardMap& map, std::vector<rpc::BackupService*> shards);

  // What was made is deleted again when a shard fails; where that fails too, the message names the
  // shards that keep it. Where only the answer of one was lost, that one stays: DeleteBackup.
  absl::StatusOr<std::vector<rpc::Backup>> CreateBackup(const rpc::CallContext& ctx,
                                                        const std::string& name) override;
  absl::StatusOr<std::vector<rpc::Backup>> ListBackups(const rpc::CallContext& ctx) override;
  // From all shards that have it; NOT_FOUND where all answer and none has.
  absl::Status DeleteBackup(const rpc::CallContext& ctx, const std::string& name) override;

 private:
  // All at once: their moments lie close together. Statuses in the order of the map.
  std::vector<absl::Status> AskAll(const std::function<absl::Status(size_t shard)>& ask) const;
  std::string Who(size_t shard) const;  // "shard 'a'"

  const rpc::ShardMap map_;
  const std::vector<rpc::BackupService*> shards_;
  mutable rpc::WorkerPool pool_;
};

}  // namespace msa::router

#endif  // MSA_ROUTER_BACKUPS_H_

// Copies of data folders, made while they are served. memory_node/ implements it for the folder of
// one store, router/ for those of all shards, RemoteBackupService over gRPC. Blocking; thread-safe.
#ifndef MSA_RPC_BACKUP_SERVICE_H_
#define MSA_RPC_BACKUP_SERVICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rpc/call_context.h"

namespace msa::rpc {

struct Backup {
  std::string shard;  // its name in the shard map; empty where no router was asked
  std::string name;
  std::string path;            // on the server's machine: a data folder
  int64_t bytes = 0;           // of all its files
  int64_t unshared_bytes = 0;  // of them, of files that nothing else has
  int64_t made_unix_micros = 0;
  int64_t num_documents = 0;  // of all banks; 0 in a list

  bool operator==(const Backup&) const = default;
};

class BackupService {
 public:
  virtual ~BackupService() = default;

  // One a shard, in the order of the map. Has all that was acknowledged before the call and nothing
  // that was deleted before it; durable on return, and was opened and read by then.
  // INVALID_ARGUMENT for a name that is none (it is no path: the server chooses the place),
  // ALREADY_EXISTS, RESOURCE_EXHAUSTED when the disk is full. Nothing is left of one that failed.
  virtual absl::StatusOr<std::vector<Backup>> CreateBackup(const CallContext& ctx,
                                                           const std::string& name) = 0;
  // Shard by shard, names ascending.
  virtual absl::StatusOr<std::vector<Backup>> ListBackups(const CallContext& ctx) = 0;
  // NOT_FOUND; FAILED_PRECONDITION while another process serves it. Can be repeated.
  virtual absl::Status DeleteBackup(const CallContext& ctx, const std::string& name) = 0;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_BACKUP_SERVICE_H_

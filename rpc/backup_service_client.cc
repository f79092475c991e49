// rpc::BackupService over BackupService.
#include <utility>

#include "common/status_macros.h"
#include "msa/v1/backup.pb.h"
#include "rpc/client_call.h"
#include "rpc/convert.h"
#include "rpc/remote.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

template <class Reply>
std::vector<Backup> BackupsOf(const Reply& reply) {
  std::vector<Backup> backups;
  for (const pb::Backup& backup : reply.backups()) {
    backups.push_back({.shard = backup.shard(),
                       .name = backup.name(),
                       .path = backup.path(),
                       .bytes = backup.bytes(),
                       .unshared_bytes = backup.unshared_bytes(),
                       .made_unix_micros = backup.made_unix_micros(),
                       .num_documents = backup.num_documents()});
  }
  return backups;
}

class RemoteBackupService final : public BackupService {
 public:
  explicit RemoteBackupService(RemoteOptions options)
      : peer_(std::move(options), kBackupServiceName) {}

  absl::StatusOr<std::vector<Backup>> CreateBackup(const CallContext& ctx,
                                                   const std::string& name) override {
    pb::CreateBackupRequest request;
    request.set_name(name);
    pb::CreateBackupReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "CreateBackup", ctx, request, &reply));
    return BackupsOf(reply);
  }

  absl::StatusOr<std::vector<Backup>> ListBackups(const CallContext& ctx) override {
    pb::ListBackupsReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "ListBackups", ctx, pb::ListBackupsRequest(), &reply));
    return BackupsOf(reply);
  }

  absl::Status DeleteBackup(const CallContext& ctx, const std::string& name) override {
    pb::DeleteBackupRequest request;
    request.set_name(name);
    pb::DeleteBackupReply reply;
    return CallUnary(&peer_, "DeleteBackup", ctx, request, &reply);
  }

 private:
  Peer peer_;
};

}  // namespace

std::unique_ptr<BackupService> MakeRemoteBackupService(RemoteOptions options) {
  return std::make_unique<RemoteBackupService>(std::move(options));
}

}  // namespace msa::rpc

// BackupService over any rpc::BackupService.
#include "common/status_macros.h"
#include "msa/v1/backup.pb.h"
#include "rpc/convert.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

template <class Reply>
void ToReply(const std::vector<Backup>& backups, Reply* reply) {
  for (const Backup& backup : backups) {
    pb::Backup* to = reply->add_backups();
    to->set_shard(backup.shard);
    to->set_name(backup.name);
    to->set_path(AsUtf8(backup.path));
    to->set_bytes(backup.bytes);
    to->set_unshared_bytes(backup.unshared_bytes);
    to->set_made_unix_micros(backup.made_unix_micros);
    to->set_num_documents(backup.num_documents);
  }
}

}  // namespace

std::unique_ptr<RawService> MakeService(BackupService* backups, CallPools* pools) {
  auto service = std::make_unique<RawService>(kBackupServiceName);
  service->Method("CreateBackup", &pools->lengthy,
                  Unary<pb::CreateBackupRequest, pb::CreateBackupReply>(
                      [backups](const CallContext& context, const auto& request, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(const auto made,
                                             backups->CreateBackup(context, request.name()));
                        ToReply(made, reply);
                        return absl::OkStatus();
                      }));
  service->Method("ListBackups", &pools->lengthy,
                  Unary<pb::ListBackupsRequest, pb::ListBackupsReply>(
                      [backups](const CallContext& context, const auto&, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(const auto listed, backups->ListBackups(context));
                        ToReply(listed, reply);
                        return absl::OkStatus();
                      }));
  service->Method("DeleteBackup", &pools->lengthy,
                  Unary<pb::DeleteBackupRequest, pb::DeleteBackupReply>(
                      [backups](const CallContext& context, const auto& request, auto*) {
                        return backups->DeleteBackup(context, request.name());
                      }));
  return service;
}

}  // namespace msa::rpc

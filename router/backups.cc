#include "router/backups.h"

#include <algorithm>
#include <iterator>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "router/shard_group.h"

namespace msa::router {
namespace {

// All shards' in the order of the map.
std::vector<rpc::Backup> Joined(const rpc::ShardMap& map,
                                std::vector<std::vector<rpc::Backup>> of_shards) {
  std::vector<rpc::Backup> joined;
  for (size_t shard = 0; shard < of_shards.size(); ++shard) {
    for (rpc::Backup& backup : of_shards[shard]) {
      backup.shard = map.shards[shard].name;
      joined.push_back(std::move(backup));
    }
  }
  return joined;
}

}  // namespace

ClusterBackups::ClusterBackups(const rpc::ShardMap& map, std::vector<rpc::BackupService*> shards)
    : map_(map), shards_(std::move(shards)) {
  MSA_CHECK(shards_.size() == map_.shards.size());
}

std::vector<absl::Status> ClusterBackups::AskAll(
    const std::function<absl::Status(size_t shard)>& ask) const {
  std::vector<absl::Status> statuses(shards_.size());
  std::vector<std::thread> threads;
  for (size_t shard = 0; shard < shards_.size(); ++shard) {
    threads.emplace_back([&, shard] {
      const absl::Status status = ask(shard);
      const std::string who = StrCat("shard '", map_.shards[shard].name, "'");
      const std::string message(status.message());
      const bool named = status.ok() || message.find(who) != std::string::npos;
      statuses[shard] = named ? status : absl::Status(status.code(), StrCat(who, ": ", message));
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

absl::StatusOr<std::vector<rpc::Backup>> ClusterBackups::CreateBackup(const rpc::CallContext& ctx,
                                                                      const std::string& name) {
  std::vector<std::vector<rpc::Backup>> made(shards_.size());
  const auto statuses = AskAll([&](size_t shard) -> absl::Status {
    MSA_ASSIGN_OR_RETURN(made[shard], shards_[shard]->CreateBackup(ctx, name));
    return absl::OkStatus();
  });
  const absl::Status error = FirstError(statuses);
  if (error.ok()) return Joined(map_, std::move(made));
  // It must not fail for the client's deadline or its having gone. Those that gave no answer are
  // left alone: what is there under that name may be an older one.
  const rpc::CallContext own{.deadline = absl::Now() + absl::Seconds(10),
                             .request_id = ctx.request_id,
                             .cancelled = nullptr};
  AskAll([&](size_t shard) {
    return statuses[shard].ok() ? shards_[shard]->DeleteBackup(own, name) : absl::OkStatus();
  });
  return error;
}

absl::StatusOr<std::vector<rpc::Backup>> ClusterBackups::ListBackups(const rpc::CallContext& ctx) {
  std::vector<std::vector<rpc::Backup>> listed(shards_.size());
  MSA_RETURN_IF_ERROR(FirstError(AskAll([&](size_t shard) -> absl::Status {
    MSA_ASSIGN_OR_RETURN(listed[shard], shards_[shard]->ListBackups(ctx));
    return absl::OkStatus();
  })));
  return Joined(map_, std::move(listed));
}

absl::Status ClusterBackups::DeleteBackup(const rpc::CallContext& ctx, const std::string& name) {
  std::vector<absl::Status> statuses =
      AskAll([&](size_t shard) { return shards_[shard]->DeleteBackup(ctx, name); });
  const bool deleted = std::any_of(statuses.begin(), statuses.end(),
                                   [](const absl::Status& status) { return status.ok(); });
  // A shard that has it not is where an earlier attempt came to.
  if (deleted) std::erase_if(statuses, [](const auto& s) { return absl::IsNotFound(s); });
  return FirstError(statuses);
}

}  // namespace msa::router

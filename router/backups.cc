#include "router/backups.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "common/check.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "rpc/fan_out.h"

namespace msa::router {
namespace {

// Whose shards are asked at once; those of further calls, one after another.
constexpr int kCallsAtOnce = 4;

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
    : map_(map),
      shards_(std::move(shards)),
      pool_(kCallsAtOnce * static_cast<int>(shards_.size()), 0) {
  MSA_CHECK(!shards_.empty() && shards_.size() == map_.shards.size());
}

std::string ClusterBackups::Who(size_t shard) const {
  return StrCat("shard '", map_.shards[shard].name, "'");
}

std::vector<absl::Status> ClusterBackups::AskAll(
    const std::function<absl::Status(size_t shard)>& ask) const {
  std::vector<absl::Status> statuses(shards_.size());
  pool_.RunEach(shards_.size(), [&](size_t shard) {
    const absl::Status status = ask(shard);
    const bool named = status.ok() || absl::StrContains(status.message(), Who(shard));
    statuses[shard] = named ? status
                            : absl::Status(status.code(),
                                           StrCat(Who(shard), ": ", std::string(status.message())));
  });
  return statuses;
}

absl::StatusOr<std::vector<rpc::Backup>> ClusterBackups::CreateBackup(const rpc::CallContext& ctx,
                                                                      const std::string& name) {
  std::vector<std::vector<rpc::Backup>> made(shards_.size());
  const auto statuses = AskAll([&](size_t shard) -> absl::Status {
    MSA_ASSIGN_OR_RETURN(made[shard], shards_[shard]->CreateBackup(ctx, name));
    return absl::OkStatus();
  });
  const absl::Status error = rpc::FirstError(statuses);
  if (error.ok()) return Joined(map_, std::move(made));
  // It must not fail for the client's deadline or its having gone. Those that gave no answer are
  // left alone: what is there under that name may be an older one.
  const rpc::CallContext own{.deadline = absl::Now() + absl::Seconds(10),
                             .request_id = ctx.request_id,
                             .cancelled = nullptr};
  const auto deleted = AskAll([&](size_t shard) {
    return statuses[shard].ok() ? shards_[shard]->DeleteBackup(own, name) : absl::OkStatus();
  });
  std::string keep;
  for (size_t shard = 0; shard < deleted.size(); ++shard) {
    if (deleted[shard].ok() || absl::IsNotFound(deleted[shard])) continue;
    absl::StrAppend(&keep, keep.empty() ? "" : ", ", Who(shard));
    Log(LogLevel::kWarning, "a backup that not all shards have could not be deleted again",
        {{"name", name}, {"why", std::string(deleted[shard].message())}});
  }
  if (keep.empty()) return error;
  return absl::Status(error.code(), StrCat(std::string(error.message()), "; '", name, "' stays on ",
                                           keep, ": msa backup rm it"));
}

absl::StatusOr<std::vector<rpc::Backup>> ClusterBackups::ListBackups(const rpc::CallContext& ctx) {
  std::vector<std::vector<rpc::Backup>> listed(shards_.size());
  MSA_RETURN_IF_ERROR(rpc::FirstError(AskAll([&](size_t shard) -> absl::Status {
    MSA_ASSIGN_OR_RETURN(listed[shard], shards_[shard]->ListBackups(ctx));
    return absl::OkStatus();
  })));
  return Joined(map_, std::move(listed));
}

absl::Status ClusterBackups::DeleteBackup(const rpc::CallContext& ctx, const std::string& name) {
  std::vector<absl::Status> statuses =
      AskAll([&](size_t shard) { return shards_[shard]->DeleteBackup(ctx, name); });
  const absl::Status first = statuses.front();
  // A shard that has it not is where an earlier attempt came to.
  std::erase_if(statuses, [](const auto& status) { return absl::IsNotFound(status); });
  return statuses.empty() ? first : rpc::FirstError(statuses);
}

}  // namespace msa::router

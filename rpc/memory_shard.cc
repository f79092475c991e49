#include "rpc/memory_shard.h"

#include "absl/strings/cord.h"
#include "common/limits.h"
#include "common/strings.h"

namespace msa::rpc {
namespace {

constexpr char kSnapshotLost[] = "type.googleapis.com/msa.v1.SnapshotLost";

}  // namespace

absl::StatusOr<std::vector<DeleteResult>> MemoryShard::DeleteDocuments(
    const CallContext& ctx, const std::string& bank, absl::Span<const std::string> ids) {
  if (ids.size() > kMaxIdsPerShardDelete) {
    return absl::InvalidArgumentError(
        StrCat(ids.size(), " ids in one call, the limit is ", kMaxIdsPerShardDelete));
  }
  std::vector<DeleteResult> results;
  for (const std::string& id : ids) {
    DeleteResult& result = results.emplace_back();
    result.id = id;
    if (auto revision = DeleteDocument(ctx, bank, id); revision.ok()) {
      result.revision = *revision;
    } else {
      result.status = revision.status();
    }
  }
  return results;
}

absl::Status SnapshotLost(absl::Status refusal) {
  refusal.SetPayload(kSnapshotLost, absl::Cord());
  return refusal;
}

absl::Status NameLostSnapshot(const absl::Status& status, std::string_view shard) {
  if (!status.GetPayload(kSnapshotLost).has_value()) return status;
  return absl::UnavailableError(StrCat("shard '", shard,
                                       "' was restarted, or the bank deleted and made anew, since "
                                       "the question began: ask again"));
}

}  // namespace msa::rpc

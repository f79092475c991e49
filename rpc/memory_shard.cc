#include "rpc/memory_shard.h"

#include "absl/strings/match.h"
#include "common/limits.h"
#include "common/strings.h"

namespace msa::rpc {

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

absl::Status NameLostSnapshot(const absl::Status& status, std::string_view shard) {
  const bool lost = absl::IsFailedPrecondition(status) &&
                    absl::StrContains(status.message(), "snapshot") &&
                    absl::StrContains(status.message(), "is not open");
  if (!lost) return status;
  return absl::UnavailableError(StrCat("shard '", shard,
                                       "' was restarted, or the bank deleted and made anew, since "
                                       "the question began: ask again"));
}

}  // namespace msa::rpc

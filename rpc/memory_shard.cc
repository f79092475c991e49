#include "rpc/memory_shard.h"

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

}  // namespace msa::rpc

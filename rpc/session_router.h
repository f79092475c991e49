// The router as a compute node sees it: one session a question, one consistent snapshot of every
// shard. Blocking; thread-safe across sessions, one call at a time within a session.
#ifndef MSA_RPC_SESSION_ROUTER_H_
#define MSA_RPC_SESSION_ROUTER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/memory_shard.h"
#include "rpc/types.h"

namespace msa::rpc {

struct SessionOptions {
  bool allow_partial = false;
  Scan scan = Scan::kDefault;
  // Not empty: every Route is exact, and compared with coarse ones of so many candidates each.
  std::vector<int32_t> compare_candidates = {};
};

struct SessionInfo {
  uint64_t session_id = 0;
  BankSpec bank;
  int64_t num_parts = 0;                    // seen by the session, all shards
  std::vector<uint64_t> shard_snapshots;    // snapshot id a shard, 0 where the shard is missing
  std::vector<std::string> missing_shards;  // names; only when allow_partial
};

struct Selection {
  std::vector<RoutedPart> parts;            // best first, at most top_k
  std::vector<std::string> missing_shards;  // only when allow_partial
  std::vector<ScanComparison> comparisons;  // one each of compare_candidates
};

class SessionRouter {
 public:
  virtual ~SessionRouter() = default;

  // UNAVAILABLE naming the shard that does not answer, unless `allow_partial`; FAILED_PRECONDITION
  // for coarse scans or comparisons of a bank without codes.
  virtual absl::StatusOr<SessionInfo> OpenSession(const CallContext& ctx, const std::string& bank,
                                                  const SessionOptions& options) = 0;
  virtual absl::Status CloseSession(const CallContext& ctx, uint64_t session_id) = 0;
  // Top-k of all shards, merged by Precedes. queries [rows, query_width].
  virtual absl::StatusOr<Selection> Route(const CallContext& ctx, uint64_t session_id,
                                          int32_t round, int32_t layer, int32_t top_k,
                                          std::vector<float> queries) = 0;
  // MemoryShard::Rank over all shards; request.bank and request.snapshot_id are ignored.
  virtual absl::StatusOr<std::vector<RankedPart>> Rank(const CallContext& ctx, uint64_t session_id,
                                                       const RankRequest& request) = 0;
  // Texts in the order asked; unknown and deleted references are left out.
  virtual absl::StatusOr<std::vector<PartText>> GetParts(
      const CallContext& ctx, uint64_t session_id, const std::vector<int64_t>& references) = 0;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_SESSION_ROUTER_H_

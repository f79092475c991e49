// The router's open sessions.
#ifndef MSA_ROUTER_SESSIONS_H_
#define MSA_ROUTER_SESSIONS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "router/scan_plan.h"
#include "rpc/types.h"

namespace msa::router {

struct Session {
  rpc::BankSpec bank;
  bool allow_partial = false;
  ScanPlan scan;
  std::vector<uint64_t> snapshots;  // a shard; 0: missing from the start

  // One call at a time within a session, but a client that breaks that must not break us.
  absl::Mutex mutex;
  std::vector<bool> missing ABSL_GUARDED_BY(mutex);  // a shard: did not answer, not asked again
};

// Thread-safe. Sessions nobody used for `ttl` are forgotten when the next one opens; their
// snapshots end on the shards by themselves.
class Sessions {
 public:
  Sessions(absl::Duration ttl, size_t limit, std::function<absl::Time()> clock)
      : ttl_(ttl), limit_(limit), clock_(std::move(clock)) {}

  absl::Duration ttl() const { return ttl_; }
  // RESOURCE_EXHAUSTED when `limit` are open.
  absl::StatusOr<uint64_t> Add(std::shared_ptr<Session> session);
  // Marks it used. FAILED_PRECONDITION for an unknown or expired one.
  absl::StatusOr<std::shared_ptr<Session>> Use(uint64_t id);
  // null when there is none.
  std::shared_ptr<Session> Remove(uint64_t id);
  size_t size() const;

 private:
  struct Entry {
    std::shared_ptr<Session> session;
    absl::Time expires;
  };
  const absl::Duration ttl_;
  const size_t limit_;
  const std::function<absl::Time()> clock_;
  mutable absl::Mutex mutex_;
  std::map<uint64_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::router

#endif  // MSA_ROUTER_SESSIONS_H_

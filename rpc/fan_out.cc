#include "rpc/fan_out.h"

#include <atomic>

namespace msa::rpc {

std::vector<absl::Status> AskTogether(
    WorkerPool& pool, const CallContext& context, size_t count, bool all_or_nothing,
    absl::FunctionRef<absl::Status(const CallContext& context, size_t i)> ask) {
  std::vector<absl::Status> statuses(count);
  std::atomic<bool> failed = false;
  CallContext linked = context;
  if (all_or_nothing) {
    linked.cancelled = [&] {
      return failed.load(std::memory_order_relaxed) || context.Cancelled();
    };
  }
  pool.RunEach(count, [&](size_t i) {
    statuses[i] = ask(linked, i);
    if (!statuses[i].ok()) failed.store(true, std::memory_order_relaxed);
  });
  return statuses;
}

absl::Status FirstError(const std::vector<absl::Status>& statuses) {
  absl::Status first;
  for (const absl::Status& status : statuses) {
    if (status.ok()) continue;
    if (!absl::IsCancelled(status)) return status;
    if (first.ok()) first = status;
  }
  return first;
}

}  // namespace msa::rpc

#include "rpc/caller.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::rpc {
namespace {

constexpr absl::Duration kCancelPoll = absl::Milliseconds(50);

}  // namespace

absl::Status CheckCaller(const CallContext& context, std::string_view late) {
  if (context.Cancelled()) return absl::CancelledError("the client went away");
  if (absl::Now() >= context.deadline) return absl::DeadlineExceededError(ToAbsl(late));
  return absl::OkStatus();
}

absl::Status AwaitFor(const CallContext& context, absl::Mutex& mutex,
                      const absl::Condition& condition, std::string_view late) {
  while (
      !mutex.AwaitWithDeadline(condition, std::min(context.deadline, absl::Now() + kCancelPoll))) {
    MSA_RETURN_IF_ERROR(CheckCaller(context, late));
  }
  return absl::OkStatus();
}

}  // namespace msa::rpc

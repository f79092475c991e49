// Whether somebody still waits for a call, and waiting for as long as somebody does.
#ifndef MSA_RPC_CALLER_H_
#define MSA_RPC_CALLER_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "rpc/types.h"

namespace msa::rpc {

// CANCELLED when the client went away, DEADLINE_EXCEEDED, which says `late`.
absl::Status CheckCaller(const CallContext& context,
                         std::string_view late = "the deadline has passed");

// Waits until `condition`, or CheckCaller's error; that is seen within 50 ms. `mutex` is held by
// the caller before and after, and for `condition`.
absl::Status AwaitFor(const CallContext& context, absl::Mutex& mutex,
                      const absl::Condition& condition, std::string_view late);

}  // namespace msa::rpc

#endif  // MSA_RPC_CALLER_H_

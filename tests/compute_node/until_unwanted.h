// A call that has no answer.
#ifndef MSA_TESTS_COMPUTE_NODE_UNTIL_UNWANTED_H_
#define MSA_TESTS_COMPUTE_NODE_UNTIL_UNWANTED_H_

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "rpc/call_context.h"
#include "rpc/caller.h"

namespace msa::compute_node {

// Returns when nobody waits for it any more: CANCELLED, or DEADLINE_EXCEEDED.
inline absl::Status UntilUnwanted(const rpc::CallContext& ctx) {
  absl::Mutex mutex;
  absl::MutexLock lock(&mutex);
  bool never = false;
  return rpc::AwaitFor(ctx, mutex, absl::Condition(&never), "late");
}

}  // namespace msa::compute_node

#endif  // MSA_TESTS_COMPUTE_NODE_UNTIL_UNWANTED_H_

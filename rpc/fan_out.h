// One call of a client as several at once.
#ifndef MSA_RPC_FAN_OUT_H_
#define MSA_RPC_FAN_OUT_H_

#include <cstddef>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "rpc/call_context.h"
#include "rpc/worker_pool.h"

namespace msa::rpc {

// ask(context, i) for each i below `count`, by RunEach of `pool`; their statuses. With
// `all_or_nothing` the first error cancels the others: by what `ask` is given as the context.
std::vector<absl::Status> AskTogether(
    WorkerPool& pool, const CallContext& context, size_t count, bool all_or_nothing,
    absl::FunctionRef<absl::Status(const CallContext& context, size_t i)> ask);

// The error that says most: the first that is not a cancellation, else the first, else OK.
absl::Status FirstError(const std::vector<absl::Status>& statuses);

}  // namespace msa::rpc

#endif  // MSA_RPC_FAN_OUT_H_

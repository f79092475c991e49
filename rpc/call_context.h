// What travels with every call.
#ifndef MSA_RPC_CALL_CONTEXT_H_
#define MSA_RPC_CALL_CONTEXT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "auth/api_key.h"

namespace msa::rpc {

// Whose API key let a call in, and what its method needs of the bank it names (admission.h).
struct Admission {
  std::shared_ptr<const auth::ApiKey> key;  // null: no key was looked at
  auth::Right right = auth::Right::kRead;
};

// How long a call may take, what its log lines are called, whether its client went away, who it is.
struct CallContext {
  absl::Time deadline = absl::InfiniteFuture();
  std::string request_id;           // empty: none
  std::function<bool()> cancelled;  // null: never; thread-safe
  // Called, from any thread, when a stream has ended although its caller may still wait for input
  // to send (AddDocuments over gRPC): input that blocks should end then. Null: nobody waits.
  std::function<void()> input_over = nullptr;
  Admission admission = {};  // stays in the process: calls to others do not carry it

  bool Cancelled() const { return cancelled && cancelled(); }
};

}  // namespace msa::rpc

#endif  // MSA_RPC_CALL_CONTEXT_H_

// What a server tells of its calls to whoever counts them.
#ifndef MSA_RPC_CALL_OBSERVER_H_
#define MSA_RPC_CALL_OBSERVER_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace msa::rpc {

// Thread-safe; called on gRPC's threads too, so it must not block. `service` is as in the .proto
// with its package ("msa.v1.MemoryService"), `method` one of its methods ("Generate").
class CallObserver {
 public:
  virtual ~CallObserver() = default;
  virtual void OnCallBegun(std::string_view service, std::string_view method) = 0;
  // Once for each that began; `took` counts from there, the wait for a thread included.
  virtual void OnCallEnded(std::string_view service, std::string_view method, absl::StatusCode code,
                           absl::Duration took) = 0;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_CALL_OBSERVER_H_

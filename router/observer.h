// What a router tells of its work to whoever counts it.
#ifndef MSA_ROUTER_OBSERVER_H_
#define MSA_ROUTER_OBSERVER_H_

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace msa::router {

// Thread-safe; called between a shard's answer and what waits for it, so that it must not block.
class Observer {
 public:
  virtual ~Observer() = default;
  // Of a shard, by its place in the map: how asking it ended, UNAVAILABLE when it did not answer in
  // time. CANCELLED when another's error, or the client, ended the call.
  virtual void OnShardAsked(int shard, absl::StatusCode code, absl::Duration took) = 0;
  // A document of a stream: OK when it is stored, else why it is not.
  virtual void OnDocument(absl::StatusCode code) = 0;
};

}  // namespace msa::router

#endif  // MSA_ROUTER_OBSERVER_H_

// What a node tells of its work to whoever counts it.
#ifndef MSA_COMPUTE_NODE_OBSERVER_H_
#define MSA_COMPUTE_NODE_OBSERVER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "rpc/compute_node.h"

namespace msa::compute_node {

// Thread-safe; called once where something ends, before its client hears of it, so that it must not
// block.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnAnswered(const rpc::DoneEvent& done) = 0;
  // A question that ended without an answer: CANCELLED when its client left.
  virtual void OnUnanswered(absl::StatusCode code) = 0;
  virtual void OnRetrieved(const rpc::RetrieveReply& reply) = 0;
  // Blocks of a document's `tokens` were made, which took so long with the wait for a batch. They
  // are not stored yet.
  virtual void OnEncoded(int64_t tokens, absl::Duration took) = 0;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_OBSERVER_H_

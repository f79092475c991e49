// The compute nodes, and which one takes the next call.
#ifndef MSA_ROUTER_COMPUTE_POOL_H_
#define MSA_ROUTER_COMPUTE_POOL_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "rpc/compute_node.h"

namespace msa::router {

// Thread-safe.
class ComputePool {
 public:
  // Borrowed.
  void Add(std::string name, rpc::ComputeNode* node);
  int size() const;

  // Calls the least loaded node, in turn among equals. While the answer is UNAVAILABLE and
  // `may_retry` (asked after each) allows it, the next node is tried, each once; not when it is
  // about a shard. UNAVAILABLE with the node's name when none is left. Of several nodes
  // "this node" in FAILED_PRECONDITION (another model) becomes its name.
  absl::Status Call(const rpc::CallContext& context,
                    const std::function<absl::Status(rpc::ComputeNode&)>& call,
                    const std::function<bool()>& may_retry = nullptr);

  absl::StatusOr<rpc::ModelInfo> Info(const rpc::CallContext& context);

 private:
  struct Node {
    std::string name;
    rpc::ComputeNode* node;
    int running = 0;
    uint64_t last_used = 0;
  };
  // Index of the node to call, its load counted; -1 when all were tried.
  int Take(const std::vector<bool>& tried);
  void Release(int index);

  mutable absl::Mutex mutex_;
  std::vector<Node> nodes_ ABSL_GUARDED_BY(mutex_);
  uint64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace msa::router

#endif  // MSA_ROUTER_COMPUTE_POOL_H_

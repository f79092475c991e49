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

  // Calls the least loaded node, in turn among equals. While the answer is UNAVAILABLE, not about a
  // shard, or a refusal that is rpc::AboutNode (it runs another model, say), and `may_retry` (asked
  // after each) allows it, the next node is tried, each once. When none is left: UNAVAILABLE with
  // the name of one that is down, and all that do not fit by name.
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

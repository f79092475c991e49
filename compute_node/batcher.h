// Joins calls of several threads into batches: whoever comes first while nobody works leads, takes
// all that wait, and does everyone's work. No thread of its own.
#ifndef MSA_COMPUTE_NODE_BATCHER_H_
#define MSA_COMPUTE_NODE_BATCHER_H_

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace msa::compute_node {

template <typename Item>
class Batcher {
 public:
  using Process = std::function<void(absl::Span<Item* const>)>;
  // Cost of one item against `max_cost` of a batch; a batch has at least one item.
  using Cost = std::function<size_t(const Item&)>;

  Batcher(size_t max_cost, Cost cost, Process process)
      : max_cost_(max_cost), cost_(std::move(cost)), process_(std::move(process)) {}

  // A caller that will come again and again: a leader waits a little for as many items as there are
  // regulars.
  class Regular {
   public:
    explicit Regular(Batcher& batcher) : batcher_(batcher) {
      absl::MutexLock lock(&batcher_.mu_);
      ++batcher_.regulars_;
    }
    ~Regular() {
      absl::MutexLock lock(&batcher_.mu_);
      --batcher_.regulars_;
    }
    Regular(const Regular&) = delete;
    Regular& operator=(const Regular&) = delete;

   private:
    Batcher& batcher_;
  };

  // Returns when `process` ran with `item` in its batch.
  void Run(Item* item) {
    Entry entry{item};
    absl::MutexLock lock(&mu_);
    queue_.push_back(&entry);
    while (true) {
      const auto may_go = [&]() { return entry.done || !leading_; };
      mu_.Await(absl::Condition(&may_go));
      if (entry.done) return;
      Lead();
    }
  }

 private:
  struct Entry {
    Item* item;
    bool done = false;
  };

  // Long enough for a sampled token to come back, short beside a decode step.
  static constexpr absl::Duration kGatherWait = absl::Milliseconds(1);

  void Lead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    leading_ = true;
    const auto all_here = [&]() { return queue_.size() >= regulars_; };
    mu_.AwaitWithTimeout(absl::Condition(&all_here), kGatherWait);
    std::vector<Entry*> batch;
    std::vector<Item*> items;
    size_t cost = 0;
    while (!queue_.empty()) {
      cost += cost_(*queue_.front()->item);
      if (!batch.empty() && cost > max_cost_) break;
      batch.push_back(queue_.front());
      items.push_back(queue_.front()->item);
      queue_.pop_front();
    }
    mu_.Unlock();
    process_(items);
    mu_.Lock();
    for (Entry* entry : batch) entry->done = true;
    leading_ = false;
  }

  const size_t max_cost_;
  const Cost cost_;
  const Process process_;
  absl::Mutex mu_;
  std::deque<Entry*> queue_ ABSL_GUARDED_BY(mu_);
  bool leading_ ABSL_GUARDED_BY(mu_) = false;
  size_t regulars_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_BATCHER_H_

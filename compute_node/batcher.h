// Joins calls of several threads into batches: whoever comes first while nobody works leads, takes
// all that wait, and does everyone's work. No thread of its own. Log lines of a batch carry no
// request id.
#ifndef MSA_COMPUTE_NODE_BATCHER_H_
#define MSA_COMPUTE_NODE_BATCHER_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <semaphore>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/log.h"

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
    Entry entry(item);
    mu_.Lock();
    queue_.push_back(&entry);
    if (leading_) {
      mu_.Unlock();
      entry.woken.acquire();
      if (entry.done) return;
      mu_.Lock();
    }
    leading_ = true;
    Lead(&entry);
  }

  // Items that no batch has taken yet.
  size_t waiting() const {
    absl::MutexLock lock(&mu_);
    return queue_.size();
  }

 private:
  struct Entry {
    explicit Entry(Item* i) : item(i) {}
    Item* item;
    bool done = false;  // when woken: else it leads
    // Each waits for itself alone: a mutex would wake a batch one after the other.
    std::binary_semaphore woken{0};
  };

  // Long enough for a sampled token to come back, short beside a decode step.
  static constexpr absl::Duration kGatherWait = absl::Milliseconds(1);

  // `own` is at the front of the queue: whoever leads has waited longest.
  void Lead(Entry* own) ABSL_UNLOCK_FUNCTION(mu_) {
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
    {
      const ScopedRequestId none("");  // the leader's is not that of all
      process_(items);
    }
    mu_.Lock();
    Entry* next = queue_.empty() ? nullptr : queue_.front();
    leading_ = next != nullptr;
    mu_.Unlock();
    if (next != nullptr) next->woken.release();
    for (Entry* entry : batch) {
      if (entry == own) continue;
      entry->done = true;
      entry->woken.release();
    }
  }

  const size_t max_cost_;
  const Cost cost_;
  const Process process_;
  mutable absl::Mutex mu_;
  std::deque<Entry*> queue_ ABSL_GUARDED_BY(mu_);
  bool leading_ ABSL_GUARDED_BY(mu_) = false;
  size_t regulars_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_BATCHER_H_

// A bounded pool of threads with a bounded queue.
#ifndef MSA_RPC_WORKER_POOL_H_
#define MSA_RPC_WORKER_POOL_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace msa::rpc {

// Thread-safe. Threads start when first needed and stay until the end; where the system has none to
// give, those that there are do the work.
class WorkerPool {
 public:
  // At most `threads` tasks run, at most `queue` more wait.
  WorkerPool(int threads, int queue);
  // Runs what is queued, then ends.
  ~WorkerPool();

  // false, and the task is dropped, when all threads are busy and the queue is full, or no thread
  // could be started yet.
  [[nodiscard]] bool Submit(std::function<void()> task);
  // Like Submit, but never queues: false unless a thread is free at once. For callers that run the
  // task themselves instead.
  [[nodiscard]] bool SubmitNow(std::function<void()> task);

 private:
  bool SubmitWithin(size_t queue, std::function<void()> task);
  // false when the system refuses one.
  bool StartThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work();

  const size_t max_threads_;
  const size_t max_queue_;
  absl::Mutex mutex_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::rpc

#endif  // MSA_RPC_WORKER_POOL_H_

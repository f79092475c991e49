// A bounded pool of threads with a bounded queue.
#ifndef MSA_RPC_WORKER_POOL_H_
#define MSA_RPC_WORKER_POOL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace msa::rpc {

// Thread-safe. Threads start when first needed and stay until the end; where the system has none to
// give, those that there are do the work. A task's log lines carry the request id that its
// submitter's do.
class WorkerPool {
 public:
  // At most `threads` tasks run, at most `queue` more wait, with `queue_bytes` at most.
  WorkerPool(int threads, int queue, size_t queue_bytes = SIZE_MAX);
  // Runs what is queued, then ends.
  ~WorkerPool();

  // `bytes`: what the task keeps in memory till it runs. false, and the task is dropped, when all
  // threads are busy and the queue is full, or no thread could be started yet.
  [[nodiscard]] bool Submit(std::function<void()> task, size_t bytes = 0);
  // Like Submit, but never queues: false unless a thread is free at once. For callers that run the
  // task themselves instead.
  [[nodiscard]] bool SubmitNow(std::function<void()> task);
  // task(i) for each i below `count` at once: on threads that are free, the last one and those for
  // whom there is none on the caller's, after the others were started. Returns when all have run.
  void RunEach(size_t count, absl::FunctionRef<void(size_t)> task);

 private:
  struct Task {
    std::function<void()> run;
    size_t waiting_bytes;  // 0 where a thread was free
    std::string request_id;
  };

  bool SubmitWithin(size_t queue, std::function<void()> task, size_t bytes);
  // Whether a thread without work is left for one task more. May start one.
  bool HasThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Work();

  const size_t max_threads_;
  const size_t max_queue_;
  const size_t max_queue_bytes_;
  absl::Mutex mutex_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  size_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of the queue's
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::rpc

#endif  // MSA_RPC_WORKER_POOL_H_

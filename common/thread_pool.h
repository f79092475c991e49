// A small fixed pool for data-parallel loops: the calling thread takes part, so a pool of n threads
// owns n-1 workers, and a pool of one owns none and runs every loop inline.
//
// Thread-safety: ParallelFor may be called from several threads at once, and from inside a loop
// body (the inner caller makes progress alone when no worker is free). Nothing is allocated per
// loop. Idle workers spin before they sleep: by default for some tens of microseconds, since a
// decoder starts a loop every hundred.
#ifndef MSA_COMMON_THREAD_POOL_H_
#define MSA_COMMON_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace msa {

class ThreadPool {
 public:
  // About 30 µs of pause instructions: longer than the serial stretch between two loops of a
  // decoder layer, far shorter than anything a person could measure as load.
  static constexpr int kSpins = 1000;

  // 0 = one thread a core. `spins`: how long idle workers spin.
  explicit ThreadPool(int num_threads, int spins = kSpins);
  // Waits for the workers. REQUIRES: no ParallelFor in progress.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(b, e) for consecutive ranges of at most `grain` that cover [begin, end) exactly
  // once, on any threads, in any order; returns when all have returned. Range bounds depend on
  // `begin`, `end` and `grain` only, never on the number of threads. REQUIRES: grain >= 1; the body
  // does not throw.
  void ParallelFor(int64_t begin, int64_t end, int64_t grain,
                   absl::FunctionRef<void(int64_t, int64_t)> body);

 private:
  // A loop in progress; lives on its caller's stack, linked into jobs_ while it has work to give.
  struct Job {
    absl::FunctionRef<void(int64_t, int64_t)> body;
    std::atomic<int64_t> next;
    int64_t end;
    int64_t grain;
    int active_workers = 0;  // guarded by the pool's mutex
    Job* following = nullptr;
  };

  static void RunRanges(Job& job);
  void WorkerLoop();
  void Link(Job* job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unlink(Job* job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The first job that still has ranges to give, or null.
  Job* FindWork() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int spins_;
  absl::Mutex mutex_;
  absl::CondVar work_added_;
  absl::CondVar worker_left_;
  Job* jobs_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int sleeping_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<int> num_jobs_{0};     // mirrors the length of jobs_, for spinning without the lock
  std::atomic<int> num_leaving_{0};  // counts workers' departures, likewise
  std::vector<std::thread> workers_;
};

}  // namespace msa

#endif  // MSA_COMMON_THREAD_POOL_H_

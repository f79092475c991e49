#include "common/thread_pool.h"

#include <algorithm>

#include "common/check.h"

namespace msa {
namespace {

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, int spins) : spins_(spins) {
  if (num_threads <= 0) {
    num_threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  workers_.reserve(num_threads - 1);
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { WorkerLoop(); });
}

ThreadPool::~ThreadPool() {
  {
    absl::MutexLock lock(&mutex_);
    MSA_CHECK(jobs_ == nullptr);
    stopping_ = true;
    work_added_.SignalAll();
  }
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunRanges(Job& job) {
  while (true) {
    const int64_t begin = job.next.fetch_add(job.grain, std::memory_order_relaxed);
    if (begin >= job.end) return;
    job.body(begin, std::min(begin + job.grain, job.end));
  }
}

void ThreadPool::ParallelFor(int64_t begin, int64_t end, int64_t grain,
                             absl::FunctionRef<void(int64_t, int64_t)> body) {
  MSA_CHECK(grain >= 1);
  if (begin >= end) return;
  Job job{.body = body, .next = begin, .end = end, .grain = grain};
  if (workers_.empty() || end - begin <= grain) {
    RunRanges(job);
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    Link(&job);
    if (sleeping_ > 0) work_added_.SignalAll();
  }
  RunRanges(job);
  absl::ReleasableMutexLock lock(&mutex_);
  Unlink(&job);
  if (job.active_workers == 0) return;
  // A worker is inside its last range: spin outside the lock first, since it is nearly done.
  const int leaving = num_leaving_.load(std::memory_order_relaxed);
  lock.Release();
  for (int i = 0; i < spins_ && num_leaving_.load(std::memory_order_relaxed) == leaving; ++i) {
    Pause();
  }
  absl::MutexLock wait_lock(&mutex_);
  while (job.active_workers > 0) worker_left_.Wait(&mutex_);
}

void ThreadPool::Link(Job* job) {
  job->following = jobs_;
  jobs_ = job;
  num_jobs_.fetch_add(1, std::memory_order_release);
}

void ThreadPool::Unlink(Job* job) {
  Job** at = &jobs_;
  while (*at != job) at = &(*at)->following;
  *at = job->following;
  num_jobs_.fetch_sub(1, std::memory_order_relaxed);
}

ThreadPool::Job* ThreadPool::FindWork() {
  for (Job* job = jobs_; job != nullptr; job = job->following) {
    if (job->next.load(std::memory_order_relaxed) < job->end) return job;
  }
  return nullptr;
}

void ThreadPool::WorkerLoop() {
  while (true) {
    for (int i = 0; i < spins_ && num_jobs_.load(std::memory_order_acquire) == 0; ++i) Pause();
    Job* job;
    {
      absl::MutexLock lock(&mutex_);
      while ((job = FindWork()) == nullptr && !stopping_) {
        ++sleeping_;
        work_added_.Wait(&mutex_);
        --sleeping_;
      }
      if (job == nullptr) return;
      ++job->active_workers;
    }
    RunRanges(*job);
    absl::MutexLock lock(&mutex_);
    num_leaving_.fetch_add(1, std::memory_order_relaxed);
    // The job may be gone as soon as its caller sees the count reach zero under the lock.
    if (--job->active_workers == 0) worker_left_.SignalAll();
  }
}

}  // namespace msa

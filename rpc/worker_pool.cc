#include "rpc/worker_pool.h"

#include <system_error>
#include <utility>

namespace msa::rpc {

WorkerPool::WorkerPool(int threads, int queue) : max_threads_(threads), max_queue_(queue) {}

WorkerPool::~WorkerPool() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

bool WorkerPool::Submit(std::function<void()> task) {
  return SubmitWithin(max_queue_, std::move(task));
}

bool WorkerPool::SubmitNow(std::function<void()> task) { return SubmitWithin(0, std::move(task)); }

bool WorkerPool::SubmitWithin(size_t queue, std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return false;
  const size_t startable = max_threads_ - threads_.size();
  if (queue_.size() >= idle_ + startable + queue) return false;
  queue_.push_back(std::move(task));
  // A new thread takes this task from the queue, so it counts as idle from here on.
  if (queue_.size() > idle_ && startable > 0 && !StartThread()) {
    // As in a pool of fewer threads: it waits where it may, for a thread that there is.
    if (threads_.empty() || queue_.size() > idle_ + queue) {
      queue_.pop_back();
      return false;
    }
  }
  return true;
}

bool WorkerPool::StartThread() {
  try {
    threads_.emplace_back([this] { Work(); });
  } catch (const std::system_error&) {
    return false;
  }
  ++idle_;
  return true;
}

void WorkerPool::Work() {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !queue_.empty();
  };
  while (true) {
    mutex_.Await(absl::Condition(&ready));
    if (queue_.empty()) return;
    std::function<void()> task = std::move(queue_.front());
    queue_.pop_front();
    --idle_;
    mutex_.Unlock();
    task();
    task = nullptr;
    mutex_.Lock();
    ++idle_;
  }
}

}  // namespace msa::rpc

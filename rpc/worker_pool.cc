#include "rpc/worker_pool.h"

#include <system_error>
#include <utility>

#include "absl/synchronization/blocking_counter.h"
#include "common/log.h"

namespace msa::rpc {

WorkerPool::WorkerPool(int threads, int queue, size_t queue_bytes)
    : max_threads_(threads), max_queue_(queue), max_queue_bytes_(queue_bytes) {}

WorkerPool::~WorkerPool() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

bool WorkerPool::Submit(std::function<void()> task, size_t bytes) {
  return SubmitWithin(max_queue_, std::move(task), bytes);
}

bool WorkerPool::SubmitNow(std::function<void()> task) {
  return SubmitWithin(0, std::move(task), 0);
}

void WorkerPool::RunEach(size_t count, absl::FunctionRef<void(size_t)> task) {
  absl::BlockingCounter elsewhere(static_cast<int>(count));
  std::vector<size_t> here;
  for (size_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    if (last || !SubmitNow([&task, &elsewhere, i] {
          task(i);
          elsewhere.DecrementCount();
        })) {
      here.push_back(i);
    }
  }
  for (const size_t i : here) {
    task(i);
    elsewhere.DecrementCount();
  }
  elsewhere.Wait();
}

bool WorkerPool::SubmitWithin(size_t queue, std::function<void()> task, size_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return false;
  if (HasThread()) {
    bytes = 0;
  } else if (threads_.empty() || queue_.size() - idle_ >= queue ||
             bytes > max_queue_bytes_ - waiting_bytes_) {
    return false;
  }
  waiting_bytes_ += bytes;
  queue_.push_back({std::move(task), bytes, CurrentRequestId()});
  return true;
}

bool WorkerPool::HasThread() {
  if (queue_.size() < idle_) return true;
  if (threads_.size() == max_threads_) return false;
  try {
    threads_.emplace_back([this] { Work(); });
  } catch (const std::system_error&) {
    return false;  // as a pool of fewer threads
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
    Task task = std::move(queue_.front());
    queue_.pop_front();
    waiting_bytes_ -= task.waiting_bytes;
    --idle_;
    mutex_.Unlock();
    {
      const ScopedRequestId lines(std::move(task.request_id));
      task.run();
      task.run = nullptr;
    }
    mutex_.Lock();
    ++idle_;
  }
}

}  // namespace msa::rpc

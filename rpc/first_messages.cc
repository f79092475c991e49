#include "rpc/first_messages.h"

#include "absl/time/clock.h"

namespace msa::rpc {

FirstMessages::FirstMessages(absl::Duration within)
    : within_(within), watcher_([this] { Watch(); }) {}

FirstMessages::~FirstMessages() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  watcher_.join();
}

FirstMessages::Place FirstMessages::Await(Call* call) {
  absl::MutexLock lock(&mutex_);
  return awaited_.emplace(awaited_.end(), absl::Now() + within_, call);
}

void FirstMessages::Arrived(Place place) {
  absl::MutexLock lock(&mutex_);
  awaited_.erase(place);
}

// A call whose message has come is about to leave the list, by Arrived.
std::list<FirstMessages::Call*> FirstMessages::GiveUp(absl::Time now) {
  std::list<Call*> late;
  for (auto at = awaited_.begin(); at != awaited_.end() && at->first <= now;) {
    if (!at->second->GiveUp()) {
      ++at;
      continue;
    }
    late.push_back(at->second);
    at = awaited_.erase(at);
  }
  return late;
}

// Wakes by the clock alone: a quiet server's calls would each wake it.
void FirstMessages::Watch() {
  absl::MutexLock lock(&mutex_);
  const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_; };
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stopped), within_ / 4)) {
    const std::list<Call*> late = GiveUp(absl::Now());
    mutex_.Unlock();
    for (Call* call : late) call->Late();
    mutex_.Lock();
  }
}

}  // namespace msa::rpc

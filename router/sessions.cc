#include "router/sessions.h"

#include <random>
#include <utility>

#include "common/strings.h"

namespace msa::router {

absl::StatusOr<uint64_t> Sessions::Add(std::shared_ptr<Session> session) {
  const absl::Time now = clock_();
  absl::MutexLock lock(&mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    entry = entry->second.expires <= now ? entries_.erase(entry) : std::next(entry);
  }
  if (entries_.size() >= limit_) {
    return absl::ResourceExhaustedError(
        StrCat("the router has ", entries_.size(), " open sessions: try again later"));
  }
  // Random, so that one client cannot guess another's session.
  std::random_device device;
  uint64_t id = 0;
  while (id == 0 || entries_.count(id) > 0) id = (uint64_t{device()} << 32) | device();
  entries_[id] = {std::move(session), now + ttl_};
  return id;
}

absl::StatusOr<std::shared_ptr<Session>> Sessions::Use(uint64_t id) {
  const absl::Time now = clock_();
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.expires <= now) {
    return absl::FailedPreconditionError(StrCat("session ", id,
                                                " is not open: it was closed or not used for ",
                                                absl::FormatDuration(ttl_)));
  }
  found->second.expires = now + ttl_;
  return found->second.session;
}

std::shared_ptr<Session> Sessions::Remove(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return nullptr;
  std::shared_ptr<Session> session = std::move(found->second.session);
  entries_.erase(found);
  return session;
}

size_t Sessions::size() const {
  absl::MutexLock lock(&mutex_);
  return entries_.size();
}

}  // namespace msa::router

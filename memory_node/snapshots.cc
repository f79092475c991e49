#include "memory_node/snapshots.h"

#include <algorithm>

#include "absl/random/random.h"
#include "common/strings.h"
#include "rpc/memory_shard.h"

namespace msa::memory_node {

SnapshotTable::SnapshotTable(std::function<absl::Time()> now, int max_open)
    : now_(std::move(now)),
      max_open_(max_open),
      start_(absl::Uniform<uint32_t>(absl::IntervalClosed, absl::BitGen(), 1, UINT32_MAX)) {}

uint64_t SnapshotTable::NewId() {
  uint64_t id;
  do {
    id = uint64_t{start_} << 32 | ++last_;
  } while (open_.contains(id));
  return id;
}

absl::StatusOr<uint64_t> SnapshotTable::Open(const std::shared_ptr<Bank>& bank, absl::Duration ttl,
                                             uint64_t* sequence) {
  absl::MutexLock lock(&mutex_);
  if (static_cast<int>(open_.size()) >= max_open_) {
    return absl::ResourceExhaustedError(
        StrCat(max_open_, " snapshots are open; close some or wait until they expire"));
  }
  // Read under the lock, so that Oldest() cannot pass it by.
  *sequence = bank->index().sequence();
  const uint64_t id = NewId();
  open_[id] = {std::make_shared<SnapshotState>(bank, *sequence), ttl, now_()};
  return id;
}

absl::StatusOr<std::shared_ptr<SnapshotState>> SnapshotTable::Use(uint64_t id, const Bank& bank) {
  absl::MutexLock lock(&mutex_);
  const auto it = open_.find(id);
  if (it == open_.end() || Expired(it->second)) {
    return rpc::SnapshotLost(absl::FailedPreconditionError(
        StrCat("snapshot ", id,
               " is not open: it expired, was closed, or the node restarted; "
               "open a new one")));
  }
  if (it->second.snapshot->bank.get() != &bank) {
    return absl::FailedPreconditionError(
        StrCat("snapshot ", id, " is not of bank '", bank.spec().name, "'"));
  }
  it->second.last_use = now_();
  return it->second.snapshot;
}

void SnapshotTable::Close(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  const auto it = open_.find(id);
  if (it == open_.end()) return;
  it->second.snapshot->closed = true;
  open_.erase(it);
}

void SnapshotTable::CloseAll(const Bank& bank) {
  absl::MutexLock lock(&mutex_);
  for (auto& [id, held] : open_) {
    if (held.snapshot->bank.get() == &bank) held.snapshot->closed = true;
  }
  absl::erase_if(open_, [](const auto& entry) { return entry.second.snapshot->closed.load(); });
}

void SnapshotTable::Expire() {
  absl::MutexLock lock(&mutex_);
  absl::erase_if(open_, [this](const auto& entry) { return Expired(entry.second); });
}

uint64_t SnapshotTable::Oldest(const Bank& bank) const {
  absl::MutexLock lock(&mutex_);
  uint64_t oldest = bank.index().sequence();
  for (const auto& [id, held] : open_) {
    if (held.snapshot->bank.get() == &bank) oldest = std::min(oldest, held.snapshot->sequence);
  }
  return oldest;
}

int64_t SnapshotTable::NumOpen(const Bank& bank) const {
  absl::MutexLock lock(&mutex_);
  return std::count_if(open_.begin(), open_.end(), [&](const auto& entry) {
    return entry.second.snapshot->bank.get() == &bank && !Expired(entry.second);
  });
}

}  // namespace msa::memory_node

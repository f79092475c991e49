#include "memory_node/bank.h"

#include <algorithm>
#include <utility>

#include "absl/hash/hash.h"
#include "common/strings.h"

namespace msa::memory_node {

SegmentShape ShapeOf(const rpc::BankSpec& spec) {
  return {.dtype = spec.routing_dtype,
          .key_width = spec.routing.key_width(),
          .num_layers = static_cast<int>(spec.router_layers.size())};
}

absl::Mutex& Bank::IdMutex(const std::string& id) {
  return id_mutexes_[absl::Hash<std::string>()(id) % kIdMutexes];
}

DocumentEntryPtr Bank::Find(const std::string& id) const {
  absl::MutexLock lock(&mutex_);
  const auto it = documents_.find(id);
  return it == documents_.end() ? nullptr : it->second;
}

PartPlace Bank::FindPart(int64_t reference) const {
  absl::MutexLock lock(&mutex_);
  const auto it = parts_.find(reference);
  return it == parts_.end() ? PartPlace() : it->second;
}

std::vector<DocumentEntryPtr> Bank::List(const std::string& after, int limit) const {
  absl::MutexLock lock(&mutex_);
  std::vector<DocumentEntryPtr> listed;
  for (auto it = documents_.upper_bound(after);
       it != documents_.end() && static_cast<int>(listed.size()) < limit; ++it) {
    if (it->second->damage.empty()) listed.push_back(it->second);
  }
  return listed;
}

std::vector<DocumentEntryPtr> Bank::Revisions(const std::string& id) const {
  absl::MutexLock lock(&mutex_);
  std::vector<DocumentEntryPtr> revisions;
  if (const auto it = documents_.find(id); it != documents_.end()) revisions.push_back(it->second);
  if (const auto it = garbage_.find(id); it != garbage_.end()) {
    for (const Garbage& garbage : it->second) revisions.push_back(garbage.entry);
  }
  return revisions;
}

absl::Status Bank::Reserve(const DocumentEntryPtr& entry) {
  absl::MutexLock lock(&mutex_);
  for (int64_t reference : entry->references) {
    if (!parts_.contains(reference)) continue;
    return absl::InvalidArgumentError(StrCat("reference ", reference,
                                             " is in use by another document or revision of bank '",
                                             spec_.name, "'; take new references"));
  }
  for (size_t i = 0; i < entry->references.size(); ++i) {
    parts_[entry->references[i]] = {entry, static_cast<int32_t>(i)};
  }
  return absl::OkStatus();
}

void Bank::Unreserve(const DocumentEntry& entry) {
  absl::MutexLock lock(&mutex_);
  for (int64_t reference : entry.references) parts_.erase(reference);
}

void Bank::Install(const DocumentEntryPtr& entry, uint64_t sequence) {
  absl::MutexLock lock(&mutex_);
  DocumentEntryPtr& current = documents_[entry->id];
  if (current != nullptr) {
    Count(*current, -1);
    garbage_[entry->id].push_back({current, sequence});
  }
  current = entry;
  Count(*entry, 1);
  next_reference_ = std::max(next_reference_, entry->max_reference + 1);
}

void Bank::Remove(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  const auto it = documents_.find(id);
  if (it == documents_.end()) return;
  Count(*it->second, -1);
  std::vector<Garbage>& garbage = garbage_[id];
  garbage.push_back({it->second, kMasked});
  for (Garbage& revision : garbage) revision.removed = kMasked;  // older ones go with it
  documents_.erase(it);
}

std::vector<Garbage> Bank::Sweepable(uint64_t oldest) const {
  absl::MutexLock lock(&mutex_);
  std::vector<Garbage> sweepable;
  for (const auto& [id, revisions] : garbage_) {
    for (const Garbage& garbage : revisions) {
      if (garbage.removed <= oldest) sweepable.push_back(garbage);
    }
  }
  return sweepable;
}

void Bank::Forget(const DocumentEntry& entry) {
  absl::MutexLock lock(&mutex_);
  for (int64_t reference : entry.references) parts_.erase(reference);
  const auto it = garbage_.find(entry.id);
  if (it == garbage_.end()) return;
  std::erase_if(it->second, [&](const Garbage& garbage) { return garbage.entry.get() == &entry; });
  if (it->second.empty()) garbage_.erase(it);
}

int64_t Bank::next_reference() const {
  absl::MutexLock lock(&mutex_);
  return next_reference_;
}

void Bank::RaiseNextReference(int64_t next_reference) {
  absl::MutexLock lock(&mutex_);
  next_reference_ = std::max(next_reference_, next_reference);
}

Bank::Counts Bank::counts() const {
  absl::MutexLock lock(&mutex_);
  return counts_;
}

rpc::CoarseState Bank::coarse() const {
  absl::MutexLock lock(&mutex_);
  return coarse_;
}

void Bank::set_coarse(const rpc::CoarseState& coarse) {
  absl::MutexLock lock(&mutex_);
  coarse_ = coarse;
}

void Bank::Count(const DocumentEntry& entry, int sign) {
  if (!entry.damage.empty()) return;
  counts_.documents += sign;
  counts_.parts += sign * static_cast<int64_t>(entry.references.size());
  counts_.tokens += sign * entry.num_tokens;
  counts_.chunks += sign * entry.num_chunks;
}

}  // namespace msa::memory_node

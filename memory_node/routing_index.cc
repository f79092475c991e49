#include "memory_node/routing_index.h"

#include <algorithm>
#include <utility>

#include "common/block_layout.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::memory_node {
namespace {

// Whether nobody at `oldest` or later sees the part. An unpublished one may yet be.
bool IsDead(const Segment& segment, int64_t part, uint64_t oldest) {
  return segment.removed(part) <= oldest;
}

int64_t DeadChunks(const Segment& segment, uint64_t oldest) {
  int64_t dead = 0;
  const int64_t num_parts = segment.num_parts();
  for (int64_t part = 0; part < num_parts; ++part) {
    if (IsDead(segment, part, oldest)) dead += segment.Entry(part).chunks;
  }
  return dead;
}

int64_t Chunks(const Segment& segment) { return segment.num_chunks(segment.num_parts()); }

}  // namespace

RoutingIndex::RoutingIndex(const kernels::Backend& backend, const SegmentShape& shape,
                           const IndexOptions& options)
    : backend_(backend), shape_(shape), options_(options) {}

int64_t RoutingIndex::MaxSegmentChunks() const {
  const int64_t by_bytes = options_.max_segment_bytes_per_layer / shape_.KeyBytes();
  return std::max(by_bytes, options_.min_segment_chunks);
}

absl::Status RoutingIndex::Append(absl::Span<const IndexPart> parts) {
  for (size_t i = 0; i < parts.size(); ++i) {
    absl::Status status;
    {
      absl::MutexLock lock(&mutex_);  // a part at a time: a book must not hold up a delete
      status = AppendOne(parts[i]);
    }
    if (status.ok()) continue;
    std::vector<int64_t> appended;
    for (const IndexPart& part : parts.first(i)) appended.push_back(part.reference);
    Abandon(appended);
    return status;
  }
  return absl::OkStatus();
}

absl::Status RoutingIndex::AppendOne(const IndexPart& part) {
  if (locations_.contains(part.reference)) {
    return absl::InvalidArgumentError(
        StrCat("reference ", part.reference, " is in use by another document"));
  }
  MSA_RETURN_IF_ERROR(CheckRoom(part.chunks));
  MSA_RETURN_IF_ERROR(MakeRoom(part.chunks));
  const PartEntry entry{part.reference, TakeSlot(), part.chunks, part.content_chunks};
  const RoutingBlockLayout layout(shape_.dtype, part.chunks, shape_.key_width);
  std::vector<KeySource> sources;
  for (std::string_view block : part.layers) {
    sources.push_back({block.data(), block.data() + layout.scales_offset});
  }
  locations_[part.reference] = {open_.get(), open_->Append(entry, sources, kNever, kNever)};
  num_chunks_ += part.chunks;
  return absl::OkStatus();
}

absl::Status RoutingIndex::MakeRoom(int64_t chunks) {
  if (open_ != nullptr && open_->Fits(1, chunks)) return absl::OkStatus();
  // Segments grow with the bank: few of them when it is large, little waste when it is small.
  const int64_t grown =
      std::clamp(num_chunks_ / 2, options_.min_segment_chunks, MaxSegmentChunks());
  const int64_t capacity = std::max(grown, chunks);
  MSA_ASSIGN_OR_RETURN(open_, AddSegment(capacity, capacity));
  return absl::OkStatus();
}

absl::Status RoutingIndex::CheckRoom(int64_t chunks) const {
  const auto chunk_bytes =
      static_cast<int64_t>(shape_.ChunkBytes() + (keeps_codes_ ? shape_.ChunkCodeBytes() : 0));
  const int64_t bytes = (num_chunks_ + chunks) * chunk_bytes;
  if (bytes <= options_.max_key_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      StrCat("routing keys would take ", bytes, " bytes of the ", options_.max_key_bytes,
             " allowed; delete documents, allow more or add a shard"));
}

uint32_t RoutingIndex::TakeSlot() {
  if (free_slots_.empty()) return num_slots_++;
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

absl::StatusOr<std::shared_ptr<Segment>> RoutingIndex::AddSegment(int64_t parts, int64_t chunks) {
  auto made = MakeOn(PickMember(chunks), parts, chunks, keeps_codes_);
  if (!made.ok()) {
    return absl::Status(made.status().code(),
                        StrCat("routing keys of ", chunks * shape_.ChunkBytes(),
                               " bytes: ", made.status().message()));
  }
  segments_.push_back(*made);
  return made;
}

absl::StatusOr<std::shared_ptr<Segment>> RoutingIndex::MakeOn(int member, int64_t parts,
                                                              int64_t chunks, bool codes) const {
  MSA_ASSIGN_OR_RETURN(auto made, Segment::Make(backend_, member, shape_, parts, chunks));
  MSA_RETURN_IF_ERROR(made->KeepCodes(codes));
  return made;
}

absl::StatusOr<std::shared_ptr<Segment>> RoutingIndex::MakeSegment(int64_t parts, int64_t chunks) {
  absl::MutexLock lock(&mutex_);
  return AddSegment(parts, chunks);
}

absl::Status RoutingIndex::Load(Segment& segment, absl::Span<PartEntry> entries,
                                absl::Span<const KeySource> layers,
                                absl::Span<const uint64_t> added) {
  int64_t chunks = 0;
  for (const PartEntry& entry : entries) chunks += entry.chunks;
  {
    absl::MutexLock lock(&mutex_);
    MSA_RETURN_IF_ERROR(CheckRoom(chunks));
    num_chunks_ += chunks;
    for (PartEntry& entry : entries) entry.slot = TakeSlot();
  }
  int64_t part = segment.AppendRun(entries, layers, added);
  absl::MutexLock lock(&mutex_);
  for (const PartEntry& entry : entries) locations_[entry.reference] = {&segment, part++};
  return absl::OkStatus();
}

int RoutingIndex::PickMember(int64_t capacity_chunks) const {
  const int num_members = backend_.num_members();
  if (num_members == 1) return 0;
  std::vector<int64_t> held(num_members);
  for (const auto& segment : segments_) held[segment->member()] += segment->capacity_bytes();
  const int64_t bytes = capacity_chunks * static_cast<int64_t>(shape_.ChunkBytes());
  int emptiest = 0, lightest = -1;
  for (int m = 0; m < num_members; ++m) {
    const int64_t free = backend_.member(m).free_bytes();
    if (free > backend_.member(emptiest).free_bytes()) emptiest = m;
    if (free >= bytes && (lightest < 0 || held[m] < held[lightest])) lightest = m;
  }
  return lightest < 0 ? emptiest : lightest;
}

absl::Status RoutingIndex::KeepCodes(bool keep) {
  absl::MutexLock compaction(&compaction_mutex_);
  {
    absl::MutexLock lock(&mutex_);
    keeps_codes_ = keep;
    if (absl::Status status = CheckRoom(0); !status.ok()) {
      keeps_codes_ = false;
      return status;
    }
  }
  const absl::Status status = KeepCodesOfSegments(keep);
  if (status.ok()) return status;
  {
    absl::MutexLock lock(&mutex_);
    keeps_codes_ = false;
  }
  KeepCodesOfSegments(false).IgnoreError();  // giving up needs nothing
  return status;
}

absl::Status RoutingIndex::KeepCodesOfSegments(bool keep) {
  std::vector<std::shared_ptr<Segment>> segments;
  {
    absl::MutexLock lock(&mutex_);
    segments = segments_;
  }
  for (const auto& segment : segments) {
    absl::MutexLock lock(&mutex_);  // a segment at a time: a delete must not wait for all
    MSA_RETURN_IF_ERROR(segment->KeepCodes(keep));
  }
  return absl::OkStatus();
}

uint64_t RoutingIndex::Publish(absl::Span<const int64_t> references,
                               absl::Span<const int64_t> replaced) {
  absl::MutexLock lock(&mutex_);
  const uint64_t sequence = sequence_.load(std::memory_order_relaxed) + 1;
  for (int64_t reference : references) {
    const Location& at = locations_.at(reference);
    at.segment->SetAdded(at.part, sequence);
  }
  for (int64_t reference : replaced) {
    const auto it = locations_.find(reference);
    if (it != locations_.end()) it->second.segment->SetRemoved(it->second.part, sequence);
  }
  // Snapshots of before see none of these marks, whatever they read meanwhile: both marks are
  // larger than their number.
  sequence_.store(sequence, std::memory_order_release);
  return sequence;
}

void RoutingIndex::Abandon(absl::Span<const int64_t> references) {
  absl::MutexLock lock(&mutex_);
  for (int64_t reference : references) {
    const auto it = locations_.find(reference);
    if (it == locations_.end()) continue;
    it->second.segment->SetRemoved(it->second.part, kMasked);
    locations_.erase(it);
  }
}

void RoutingIndex::Mask(absl::Span<const int64_t> references) {
  absl::MutexLock lock(&mutex_);
  for (int64_t reference : references) {
    const auto it = locations_.find(reference);
    if (it != locations_.end()) it->second.segment->SetRemoved(it->second.part, kMasked);
    for (const auto& weak : retired_) {
      const auto segment = weak.lock();
      if (segment == nullptr) continue;
      const auto held = segment->references(segment->num_parts());
      for (auto at = std::find(held.begin(), held.end(), reference); at != held.end();
           at = std::find(at + 1, held.end(), reference)) {
        segment->SetRemoved(at - held.begin(), kMasked);
      }
    }
  }
}

bool RoutingIndex::Visible(int64_t reference, uint64_t sequence) const {
  absl::MutexLock lock(&mutex_);
  const auto it = locations_.find(reference);
  return it != locations_.end() && it->second.segment->Visible(it->second.part, sequence);
}

int64_t RoutingIndex::CountVisible(uint64_t sequence) const {
  int64_t count = 0;
  for (const SegmentView& view : View()) {
    for (int64_t part = 0; part < view.num_parts; ++part) {
      count += view.segment->Visible(part, sequence);
    }
  }
  return count;
}

IndexView RoutingIndex::View() const {
  absl::MutexLock lock(&mutex_);
  IndexView view;
  view.reserve(segments_.size());
  for (const auto& segment : segments_) {
    view.push_back({segment, segment->num_parts(), segment->codes()});
  }
  return view;
}

uint32_t RoutingIndex::num_slots() const {
  absl::MutexLock lock(&mutex_);
  return num_slots_;
}

std::vector<std::shared_ptr<Segment>> RoutingIndex::PickVictims(uint64_t oldest) {
  std::vector<std::shared_ptr<Segment>> sealed;
  {
    absl::MutexLock lock(&mutex_);
    sealed = segments_;
    // An open segment of which much is dead is sealed, else it could stay so for ever.
    if (open_ != nullptr && DeadChunks(*open_, oldest) > options_.max_dead_share * Chunks(*open_)) {
      open_ = nullptr;
    }
    std::erase(sealed, open_);
  }
  // Those of one member: keys are not carried from GPU to GPU.
  for (int m = 0; m < backend_.num_members(); ++m) {
    std::vector<std::shared_ptr<Segment>> candidates;
    for (const auto& segment : sealed) {
      if (segment->member() == m) candidates.push_back(segment);
    }
    if (auto victims = PickVictims(candidates, oldest); !victims.empty()) return victims;
  }
  return {};
}

std::vector<std::shared_ptr<Segment>> RoutingIndex::PickVictims(
    const std::vector<std::shared_ptr<Segment>>& candidates, uint64_t oldest) const {
  std::vector<std::shared_ptr<Segment>> small, victims;
  int64_t chunks = 0;
  for (const auto& segment : candidates) {
    const int64_t dead = DeadChunks(*segment, oldest);
    const int64_t live = Chunks(*segment) - dead;
    if (dead > options_.max_dead_share * Chunks(*segment)) {
      if (!victims.empty() && chunks + live > MaxSegmentChunks()) continue;
      victims.push_back(segment);
      chunks += live;
    } else if (live < MaxSegmentChunks() / 2) {
      small.push_back(segment);
    }
  }
  std::sort(small.begin(), small.end(),
            [](const auto& a, const auto& b) { return Chunks(*a) < Chunks(*b); });
  if (victims.empty() && static_cast<int>(small.size()) < options_.merge_count) return {};
  for (const auto& segment : small) {
    if (chunks + Chunks(*segment) > MaxSegmentChunks()) break;
    victims.push_back(segment);
    chunks += Chunks(*segment);
  }
  return victims;
}

bool RoutingIndex::CompactOnce(uint64_t oldest) {
  absl::MutexLock lock(&compaction_mutex_);
  const auto victims = PickVictims(oldest);
  return !victims.empty() && Rewrite(victims, oldest);
}

bool RoutingIndex::Rewrite(const std::vector<std::shared_ptr<Segment>>& victims, uint64_t oldest) {
  // Sealed segments take no appends: what lives now is all there is to copy. Marks may change
  // meanwhile and are taken over in Swap.
  int64_t parts = 0, chunks = 0;
  bool codes = false;
  {
    absl::MutexLock lock(&mutex_);
    codes = keeps_codes_;  // KeepCodes waits till the new segment is in its place
  }
  for (const auto& victim : victims) {
    for (int64_t part = 0; part < victim->num_parts(); ++part) {
      if (IsDead(*victim, part, oldest)) continue;
      ++parts;
      chunks += victim->Entry(part).chunks;
    }
  }
  auto made = MakeOn(victims.front()->member(), parts, chunks, codes);
  if (!made.ok()) return false;
  const std::shared_ptr<Segment> merged = *std::move(made);
  std::vector<KeySource> sources(shape_.num_layers);
  for (const auto& victim : victims) {
    for (int64_t part = 0; part < victim->num_parts(); ++part) {
      const PartEntry entry = victim->Entry(part);
      // One that died since it was counted may be left out, never one added: none can be.
      if (IsDead(*victim, part, oldest)) continue;
      for (int layer = 0; layer < shape_.num_layers; ++layer) {
        sources[layer] = victim->Source(layer, part);
      }
      merged->Append(entry, sources, victim->added(part), victim->removed(part));
    }
  }
  absl::MutexLock lock(&mutex_);
  Swap(victims, merged);
  return true;
}

void RoutingIndex::Swap(const std::vector<std::shared_ptr<Segment>>& victims,
                        const std::shared_ptr<Segment>& merged) {
  int64_t next = 0;  // parts of `merged` are in the order of the victims'
  for (const auto& victim : victims) {
    const int64_t num_parts = victim->num_parts();
    for (int64_t part = 0; part < num_parts; ++part) {
      const PartEntry entry = victim->Entry(part);
      const bool kept = next < merged->num_parts() && merged->slot(next) == entry.slot &&
                        merged->Entry(next).reference == entry.reference;
      if (!kept) {
        DropPart(*victim, part);
        continue;
      }
      merged->SetAdded(next, victim->added(part));
      merged->SetRemoved(next, victim->removed(part));
      const auto it = locations_.find(entry.reference);
      if (it != locations_.end() && it->second.segment == victim.get() && it->second.part == part) {
        it->second = {merged.get(), next};
      }
      ++next;
    }
    std::erase(segments_, victim);
    retired_.push_back(victim);
  }
  if (merged->num_parts() > 0) segments_.push_back(merged);
  std::erase_if(retired_, [](const auto& weak) { return weak.expired(); });
}

void RoutingIndex::DropPart(const Segment& segment, int64_t part) {
  const PartEntry entry = segment.Entry(part);
  const auto it = locations_.find(entry.reference);
  if (it != locations_.end() && it->second.segment == &segment && it->second.part == part) {
    locations_.erase(it);
  }
  free_slots_.push_back(entry.slot);
  num_chunks_ -= entry.chunks;
}

IndexStats RoutingIndex::Stats(uint64_t oldest) const {
  IndexStats stats;
  for (const SegmentView& view : View()) {
    ++stats.num_segments;
    const int64_t chunks = view.segment->num_chunks(view.num_parts);
    stats.key_bytes += chunks * shape_.ChunkBytes();
    if (view.codes != nullptr) stats.code_bytes += chunks * shape_.ChunkCodeBytes();
    for (int64_t part = 0; part < view.num_parts; ++part) {
      stats.dead_parts += IsDead(*view.segment, part, oldest);
    }
  }
  return stats;
}

}  // namespace msa::memory_node

// The resident routing keys of one bank, in segments. Parts are added, replaced and masked while
// queries run; a reader's snapshot is a sequence number.
//
// A document becomes visible in three steps, so that a failed disk write leaves no trace: Append
// copies its keys where no reader sees them, the caller makes it durable, Publish shows it and
// hides what it replaces under one new sequence number (or Abandon gives it up).
//
// Thread-safety: all methods, from any thread. Readers never wait for Append or CompactOnce to
// copy.
#ifndef MSA_MEMORY_NODE_ROUTING_INDEX_H_
#define MSA_MEMORY_NODE_ROUTING_INDEX_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "memory_node/segment.h"

namespace msa::memory_node {

struct IndexOptions {
  int64_t min_segment_chunks = 1024;
  int64_t max_segment_bytes_per_layer = 32 << 20;
  double max_dead_share = 0.25;              // of a sealed segment's chunks before it is rewritten
  int merge_count = 4;                       // small segments that are made one
  int64_t max_key_bytes = int64_t{1} << 40;  // of the whole index, dead keys included
};

// Keys of one part as stored: a routing block (common/block_layout.h) a layer, in the bank's order.
struct IndexPart {
  int64_t reference = 0;
  int32_t chunks = 0;  // at least 1
  int32_t content_chunks = 0;
  std::vector<std::string_view> layers;
};

// A segment as a pass sees it: parts below num_parts.
struct SegmentView {
  std::shared_ptr<const Segment> segment;
  int64_t num_parts = 0;
  std::shared_ptr<const SegmentCodes> codes = nullptr;  // null: none
};
using IndexView = std::vector<SegmentView>;

struct IndexStats {
  int64_t num_segments = 0;
  int64_t key_bytes = 0;
  int64_t code_bytes = 0;  // beside the keys, where codes are kept
  int64_t dead_parts = 0;  // masked, or replaced and seen by no snapshot from `oldest` on
};

class RoutingIndex {
 public:
  // `backend` holds the keys and must outlive it. In a group the members hold about as much each,
  // as far as they have room.
  RoutingIndex(const kernels::Backend& backend, const SegmentShape& shape,
               const IndexOptions& options);

  // INVALID_ARGUMENT when a reference is in the index already, RESOURCE_EXHAUSTED when memory is
  // full; nothing stays then.
  absl::Status Append(absl::Span<const IndexPart> parts);
  // Shows the parts appended, hides `replaced` from snapshots taken from now on. Returns the new
  // sequence number.
  uint64_t Publish(absl::Span<const int64_t> references, absl::Span<const int64_t> replaced);
  void Abandon(absl::Span<const int64_t> references);
  // Keeps 4-bit codes of all keys, present and to come, or gives them up. Readers and writers go on
  // meanwhile, a segment's encoding apart. RESOURCE_EXHAUSTED when there is no memory for them;
  // then there are none. REQUIRES: kernels::CanHaveCodes of the bank's shape.
  absl::Status KeepCodes(bool keep);
  // Hides from everybody, at once: no Select begun after the return takes one of them.
  void Mask(absl::Span<const int64_t> references);

  // ---- For IndexLoader, before anybody reads
  uint64_t NextSequence() { return sequence_.fetch_add(1) + 1; }
  // A sealed segment of the index that one loader fills.
  absl::StatusOr<std::shared_ptr<Segment>> MakeSegment(int64_t parts, int64_t chunks);
  // Segment::AppendRun, with the entries' slots given here.
  absl::Status Load(Segment& segment, absl::Span<PartEntry> entries,
                    absl::Span<const KeySource> layers, absl::Span<const uint64_t> added);
  int64_t MaxSegmentChunks() const;

  // A snapshot: what is published now is seen at this number.
  uint64_t sequence() const { return sequence_.load(std::memory_order_acquire); }
  bool Visible(int64_t reference, uint64_t sequence) const;
  int64_t CountVisible(uint64_t sequence) const;
  // Every part seen at any number up to sequence() is in it, and stays readable with it.
  IndexView View() const;
  // Above every slot of a part that is or was in the index.
  uint32_t num_slots() const;

  // Rewrites or merges once where that is worth it, without parts that nobody at `oldest` or later
  // can see. False when there is nothing to do. One at a time; others wait.
  bool CompactOnce(uint64_t oldest);
  IndexStats Stats(uint64_t oldest) const;
  const SegmentShape& shape() const { return shape_; }

 private:
  struct Location {
    Segment* segment;
    int64_t part;
  };

  absl::Status AppendOne(const IndexPart& part) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status MakeRoom(int64_t chunks) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status KeepCodesOfSegments(bool keep) ABSL_EXCLUSIVE_LOCKS_REQUIRED(compaction_mutex_);
  absl::StatusOr<std::shared_ptr<Segment>> MakeOn(int member, int64_t parts, int64_t chunks,
                                                  bool codes) const;
  absl::Status CheckRoom(int64_t chunks) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint32_t TakeSlot() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<Segment>> AddSegment(int64_t parts, int64_t chunks)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Where a new segment goes: the member that holds least of this index and has room, else the
  // emptiest.
  int PickMember(int64_t capacity_chunks) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::shared_ptr<Segment>> PickVictims(uint64_t oldest);
  std::vector<std::shared_ptr<Segment>> PickVictims(
      const std::vector<std::shared_ptr<Segment>>& candidates, uint64_t oldest) const;
  bool Rewrite(const std::vector<std::shared_ptr<Segment>>& victims, uint64_t oldest);
  void Swap(const std::vector<std::shared_ptr<Segment>>& victims,
            const std::shared_ptr<Segment>& merged) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropPart(const Segment& segment, int64_t part) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const kernels::Backend& backend_;
  const SegmentShape shape_;
  const IndexOptions options_;
  std::atomic<uint64_t> sequence_{1};

  absl::Mutex compaction_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  mutable absl::Mutex mutex_;
  std::vector<std::shared_ptr<Segment>> segments_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Segment> open_
      ABSL_GUARDED_BY(mutex_);  // also in segments_; null before the first
  // Rewritten, but perhaps still scanned: a mask must reach them too.
  std::vector<std::weak_ptr<Segment>> retired_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<int64_t, Location> locations_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> free_slots_ ABSL_GUARDED_BY(mutex_);
  uint32_t num_slots_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_chunks_ ABSL_GUARDED_BY(mutex_) = 0;
  bool keeps_codes_ ABSL_GUARDED_BY(mutex_) = false;  // of segments made from now on
};

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_ROUTING_INDEX_H_

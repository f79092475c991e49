// Places in what a routing kernel walks through: the tiles of its share of the chunks, the ring of
// stages in shared memory, the parts of a segment.
#ifndef MSA_KERNELS_CUDA_ROUTING_CURSOR_CUH_
#define MSA_KERNELS_CUDA_ROUTING_CURSOR_CUH_

#include <cstdint>

#include "kernels/cuda/routing.h"

namespace msa::kernels::cuda {

// Walks a worker's share of the chunks of all segments in tiles of at most `tile_rows` that do not
// cross segments. Every warp has one; all lanes agree.
class TileCursor {
 public:
  __device__ TileCursor(const RoutingSegment* segments, int num_segments, int64_t num_chunks,
                        int worker, int num_workers, int tile_rows)
      : segments_(segments),
        at_(num_chunks * worker / num_workers),
        end_(num_chunks * (worker + 1) / num_workers) {
    // Tiles of equal size: a short last one would leave memory half idle.
    const int64_t num_tiles = max((end_ - at_ + tile_rows - 1) / tile_rows, int64_t{1});
    tile_rows_ = static_cast<int>((end_ - at_ + num_tiles - 1) / num_tiles);
    if (at_ >= end_) return;
    const int lane = threadIdx.x % 32;
    for (int first = 0; first < num_segments; first += 32) {
      // The whole descriptor at once, rather than a second round trip for the one that is wanted.
      const RoutingSegment mine = segments_[min(first + lane, num_segments - 1)];
      const bool begins = first + lane < num_segments && mine.first_chunk <= at_;
      const int count = __popc(__ballot_sync(~0u, begins));
      if (count == 0) break;
      segment_ = first + count - 1;
      current_ = FromLane(mine, count - 1);
      if (count < 32) break;
    }
  }

  // False at the end.
  __device__ bool Next() {
    if (at_ >= end_) return false;
    new_segment_ = first_;
    first_ = false;
    while (at_ >= current_.first_chunk + current_.num_chunks) {
      current_ = segments_[++segment_];
      new_segment_ = true;
    }
    row_ = at_ - current_.first_chunk;
    const int64_t stop = min(end_, current_.first_chunk + current_.num_chunks);
    rows_ = static_cast<int>(min(stop - at_, static_cast<int64_t>(tile_rows_)));
    at_ += rows_;
    return true;
  }

  __device__ const RoutingSegment& segment() const { return current_; }
  __device__ bool new_segment() const { return new_segment_; }
  __device__ int64_t row() const { return row_; }  // first chunk of the tile in its segment
  __device__ int rows() const { return rows_; }

 private:
  __device__ static RoutingSegment FromLane(const RoutingSegment& mine, int lane) {
    constexpr int kWords = sizeof(RoutingSegment) / sizeof(int64_t);
    static_assert(kWords * sizeof(int64_t) == sizeof(RoutingSegment));
    union {
      RoutingSegment segment;
      int64_t words[kWords];
    } value = {mine};
#pragma unroll
    for (int i = 0; i < kWords; ++i) value.words[i] = __shfl_sync(~0u, value.words[i], lane);
    return value.segment;
  }

  const RoutingSegment* segments_;
  int64_t at_;
  int64_t end_;
  int tile_rows_ = 0;
  int segment_ = 0;
  RoutingSegment current_;
  bool first_ = true;
  bool new_segment_ = false;
  int64_t row_ = 0;
  int rows_ = 0;
};

// A place in the ring of stages.
struct StageCursor {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void Advance(int num_stages) {
    if (++stage == num_stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// First part of the segment that ends after chunk `row`; all lanes of the warp agree.
__device__ inline int64_t FindPart(const RoutingSegment& segment, int64_t row) {
  const int lane = threadIdx.x % 32;
  int64_t low = 0;
  int64_t high = segment.num_parts;  // the answer is in low … high
  while (low < high) {
    const int64_t step = (high - low + 31) / 32;
    const int64_t probe = low + lane * step;
    const bool ended = probe < high && segment.part_begin[probe + 1] <= row;
    const int count = __popc(__ballot_sync(~0u, ended));
    if (count < 32) high = min(high, low + count * step);
    if (count > 0) low += (count - 1) * step + 1;
  }
  return low;
}

// Where this lane's part begins and ends: `part` + lane of the segment; behind the last, a part
// that begins and ends behind everything.
struct PartRange {
  int64_t begin;
  int64_t end;
};
__device__ inline PartRange LoadPart(const RoutingSegment& segment, int64_t part) {
  part += threadIdx.x % 32;
  if (part >= segment.num_parts) return {INT64_MAX, INT64_MAX};
  return {segment.part_begin[part], segment.part_begin[part + 1]};
}

// Calls score(column of the scores, begin, end) for the parts that own chunks of a tile (of chunks
// row … row + rows - 1 of the segment), one lane a part; begin … end-1 are its chunks, counted from
// the tile's first. `part` is the first that ends after `row`, or one before it, and `range` what
// LoadPart says of it; returns the first that ends after chunk `stop` - 1, the tile's last or a
// later one.
template <typename Score>
__device__ int64_t WalkParts(const RoutingSegment& segment, int64_t part, PartRange range,
                             int64_t row, int rows, int64_t stop, const Score& score) {
  for (;;) {  // 32 parts at a time, until one ends behind `stop`
    const int64_t low = max(range.begin, row);
    const int64_t high = min(range.end, row + rows);
    if (low < high) {
      score(segment.first_part + part + threadIdx.x % 32, static_cast<int>(low - row),
            static_cast<int>(high - row));
    }
    const int ended = __popc(__ballot_sync(~0u, range.end <= stop));
    part += ended;
    if (ended < 32) return part;
    range = LoadPart(segment, part);
  }
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_CURSOR_CUH_

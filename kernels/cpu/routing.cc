#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/routing.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway wants it.
#include <algorithm>
#include <cstdint>

#include "common/check.h"
#include "hwy/highway.h"
#include "kernels/cpu/dot_tile-inl.h"
#include "kernels/cpu/routing.h"
#include "kernels/cpu/routing_plan.h"
#include "kernels/cpu/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace msa::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// MaxOrNan of the reference: NaN wins, so that no order of tiles can hide it.
HWY_INLINE FourVec MaxOrNan(FourVec a, FourVec b) {
  return hn::IfThenElse(hn::Or(hn::Gt(b, a), hn::IsNaN(b)), b, a);
}

// Head mean (folded) and query max: values[question, 0 … 3] = max over the question's rows.
template <typename T>
void FoldedTile(const RoutingPlan& plan, const T* const (&keys)[kTileKeys], float* values) {
  const FourTag d4;
  const int32_t* row_question = plan.row_question;
  DotRows(plan.queries, plan.num_rows, plan.query_width, keys, plan.key_width,
          Ahead<T>(plan.key_width), [&](int64_t row, FourVec dots) HWY_ATTR {
            float* best = values + row_question[row] * plan.block_chunks;
            hn::StoreU(MaxOrNan(hn::LoadU(d4, best), dots), d4, best);
          });
}

// Head max, any query reduction: heads one by one, then rows.
template <typename T>
void HeadMaxTile(const RoutingPlan& plan, const T* const (&keys)[kTileKeys], float* values) {
  const FourTag d4;
  const size_t head_dim = plan.head_dim;
  for (int question = 0; question < plan.num_questions; ++question) {
    const int32_t begin = plan.query_begin[question];
    const int32_t end = plan.query_begin[question + 1];
    FourVec reduced = hn::Set(d4, kNoScore);
    HWY_ALIGN double sums[kTileKeys] = {};
    for (int32_t row = plan.query_reduce == Reduce::kLast ? end - 1 : begin; row < end; ++row) {
      FourVec best = hn::Set(d4, kNoScore);
      for (int head = 0; head < plan.num_q_heads; ++head) {
        const size_t key_offset = head / plan.group * head_dim;
        const T* const head_keys[kTileKeys] = {keys[0] + key_offset, keys[1] + key_offset,
                                               keys[2] + key_offset, keys[3] + key_offset};
        FourVec dots[1];
        DotTile(plan.queries + row * plan.query_width + head * head_dim, 0, head_keys, head_dim,
                Ahead<T>(plan.key_width), dots);
        best = MaxOrNan(best, dots[0]);
      }
      reduced = MaxOrNan(reduced, best);
      HWY_ALIGN float row_scores[kTileKeys];
      hn::Store(best, d4, row_scores);
      for (int k = 0; k < kTileKeys; ++k) sums[k] += row_scores[k];
    }
    float* out = values + question * plan.block_chunks;
    hn::StoreU(reduced, d4, out);
    if (plan.query_reduce == Reduce::kMean) {
      for (int k = 0; k < kTileKeys; ++k) out[k] = static_cast<float>(sums[k] / (end - begin));
    }
  }
}

template <typename T>
void ScoreTile(const RoutingPlan& plan, const T* const (&keys)[kTileKeys], float* values) {
  if (plan.head_max) {
    HeadMaxTile(plan, keys, values);
  } else {
    FoldedTile(plan, keys, values);
  }
}

// Keys of 16 or 8 bits are widened once into a tile of L1 when several row groups will read them.
template <typename T>
bool WidenFirst(const RoutingPlan& plan) {
  return sizeof(T) < sizeof(float) && plan.num_rows > kTileRows;
}

// From the order of tiles to the order of chunks, times the scales of the keys where they have
// some.
void Untile(const Tiles& tiles, const float* HWY_RESTRICT scales, const float* HWY_RESTRICT in,
            float* HWY_RESTRICT out) {
  for (int k = 0; k < tiles.ways; ++k) {
    const int64_t first = k * tiles.count;
    const int64_t n = std::min(tiles.count, tiles.end - tiles.begin - first);
    for (int64_t i = 0; i < n; ++i) out[first + i] = in[i * tiles.ways + k];
  }
  if (scales == nullptr) return;
  for (int64_t i = 0; i < tiles.end - tiles.begin; ++i) out[i] *= scales[tiles.begin + i];
}

constexpr int kRowKeys = 2 * kTileKeys;  // keys of a tile of one row

// sums = dots of one row with 8 keys, to the bit those of DotTile: the same order of additions, but
// enough of them at once to hide their latency. Fetches the lines `ahead` elements behind a few at
// a time: eight at once fill the queue of misses, and the arithmetic waits behind them (int8 keys
// of 192 elements: 1.14 ms a pass of 12 MB, against 0.95 spread).
template <typename T>
HWY_INLINE void DotEight(const float* HWY_RESTRICT row, const T* const (&keys)[kRowKeys],
                         size_t width, size_t ahead, FourVec (&sums)[2]) {
  const FloatTag d;
  constexpr size_t kLanes = hn::MaxLanes(d);
  constexpr size_t kLine = 64 / sizeof(T);
  constexpr int kSteps = kLine / kLanes;  // 1 (float32, AVX-512) … 16 (8 bits, SSE4)
  FloatVec acc[kRowKeys];
  for (FloatVec& sum : acc) sum = hn::Zero(d);
  const auto step = [&](size_t i) HWY_ATTR {
    const FloatVec x = hn::LoadU(d, row + i);
    for (int k = 0; k < kRowKeys; ++k) acc[k] = hn::MulAdd(x, LoadFloats(keys[k] + i), acc[k]);
  };
  size_t i = 0;
  for (; i + kLine <= width; i += kLine) {
#pragma GCC unroll 16
    for (int s = 0; s < kSteps; ++s) {
      for (int k = s * kRowKeys / kSteps; k < (s + 1) * kRowKeys / kSteps; ++k) {
        hwy::Prefetch(keys[k] + ahead + i);
      }
      step(i + s * kLanes);
    }
  }
  for (; i + kLanes <= width; i += kLanes) step(i);
  if (HWY_UNLIKELY(i < width)) {
    const FloatVec x = LoadTail(row + i, width - i);
    for (int k = 0; k < kRowKeys; ++k) {
      acc[k] = hn::MulAdd(x, LoadTail(keys[k] + i, width - i), acc[k]);
    }
  }
  sums[0] = SumFour(acc[0], acc[1], acc[2], acc[3]);
  sums[1] = SumFour(acc[4], acc[5], acc[6], acc[7]);
}

// One folded row.
template <typename T>
void ScoreBlockOfOneRow(const RoutingPlan& plan, const Tiles& tiles, float* tiled) {
  const FourTag d4;
  const int64_t width = plan.key_width;
  const int64_t ahead = static_cast<int64_t>(Ahead<T>(width));
  // Near the end of its stream a key's successor is one of the next block, in the same place.
  const int64_t next_block = (kRowKeys - 1) * tiles.count * width;
  for (int64_t tile = 0; tile < tiles.count; ++tile) {
    const T* keys[kRowKeys];
    TilePointers(static_cast<const T*>(plan.keys), tiles, tile, plan.key_width, keys);
    FourVec dots[2];
    DotEight(plan.queries, keys, plan.key_width,
             tile * width + ahead < tiles.count * width ? ahead : ahead + next_block, dots);
    hn::StoreU(dots[0], d4, tiled + tile * kRowKeys);
    hn::StoreU(dots[1], d4, tiled + tile * kRowKeys + kTileKeys);
  }
}

template <typename T>
void ScoreBlockOfRows(const RoutingPlan& plan, const Tiles& tiles, float* widened, float* tiled) {
  const size_t width = plan.key_width;
  std::fill_n(tiled, plan.num_questions * plan.block_chunks, kNoScore);
  for (int64_t tile = 0; tile < tiles.count; ++tile) {
    const T* keys[kTileKeys];
    TilePointers(static_cast<const T*>(plan.keys), tiles, tile, width, keys);
    float* values = tiled + tile * kTileKeys;
    if (!WidenFirst<T>(plan)) {
      ScoreTile<T>(plan, keys, values);
      continue;
    }
    const float* wide[kTileKeys];
    for (int k = 0; k < kTileKeys; ++k) {
      WidenRow(keys[k], width, Ahead<T>(width), widened + k * width);
      wide[k] = widened + k * width;
    }
    ScoreTile<float>(plan, wide, values);
  }
}

// values[question, 0 … end-begin) for chunks begin … end-1; `tiled` and `widened` are scratch.
template <typename T>
void ScoreBlock(const RoutingPlan& plan, int64_t begin, int64_t end, float* widened, float* tiled,
                float* values) {
  const bool one_row = plan.num_rows == 1 && !plan.head_max;
  const Tiles tiles(begin, end, one_row ? kRowKeys : kTileKeys);
  MSA_CHECK(tiles.count * tiles.ways <= plan.block_chunks);  // the room of `tiled`
  if (one_row) {
    ScoreBlockOfOneRow<T>(plan, tiles, tiled);
  } else {
    ScoreBlockOfRows<T>(plan, tiles, widened, tiled);
  }
  for (int question = 0; question < plan.num_questions; ++question) {
    Untile(tiles, plan.scales, tiled + question * plan.block_chunks,
           values + question * plan.block_chunks);
  }
}

// Scores parts [part_begin, part_end), which own consecutive chunks.
template <typename T>
void ScorePartRange(const RoutingPlan& plan, int64_t part_begin, int64_t part_end) {
  thread_local Scratch<float> value_scratch;
  thread_local Scratch<float> tiled_scratch;
  thread_local Scratch<float> widened_scratch;
  float* values = value_scratch.Get(plan.num_questions * plan.block_chunks);
  float* tiled = tiled_scratch.Get(plan.num_questions * plan.block_chunks);
  float* widened = widened_scratch.Get(kTileKeys * plan.key_width);
  PartReducer reducer(plan, part_begin, part_end);
  const int64_t chunk_end = plan.part_begin[part_end];
  for (int64_t begin = plan.part_begin[part_begin]; begin < chunk_end; begin += plan.block_chunks) {
    const int64_t end = std::min(begin + plan.block_chunks, chunk_end);
    ScoreBlock<T>(plan, begin, end, widened, tiled, values);
    reducer.Take(begin, end, values, plan.block_chunks);
  }
  reducer.Finish();
}

void ScoreRange(const RoutingPlan& plan, int64_t part_begin, int64_t part_end) {
  switch (plan.dtype) {
    case DType::kFloat32:
      return ScorePartRange<float>(plan, part_begin, part_end);
    case DType::kBFloat16:
      return ScorePartRange<BFloat16>(plan, part_begin, part_end);
    case DType::kInt8:
      return ScorePartRange<int8_t>(plan, part_begin, part_end);
    case DType::kFloat8:
      return ScorePartRange<Float8>(plan, part_begin, part_end);
    case DType::kFloat16:
      break;
  }
  HWY_ABORT("routing keys are not float16");
}

}  // namespace HWY_NAMESPACE
}  // namespace msa::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace msa::kernels {

HWY_EXPORT(ScoreRange);

void CpuScoreParts(const ScoreArgs& args, ThreadPool& pool) {
  const RoutingPlan plan = MakeRoutingPlan(args);
  const int64_t num_chunks = plan.part_begin[plan.num_parts] - plan.part_begin[0];
  // Some ranges a thread, for balance, of at most 4 MB of float32 keys.
  const int64_t share = num_chunks / (8 * pool.num_threads());
  const int64_t grain =
      std::clamp<int64_t>(share, 64, std::max<int64_t>(64, (int64_t{1} << 20) / plan.key_width));
  const auto run = HWY_DYNAMIC_DISPATCH(ScoreRange);
  pool.ParallelFor(0, std::max<int64_t>(num_chunks, 1), grain, [&](int64_t begin, int64_t end) {
    const auto [first, last] = plan.PartsOfChunks(begin, end, num_chunks);
    if (first < last) run(plan, first, last);
  });
}

std::vector<ScoredPart> CpuSelectTopK(absl::Span<const float> scores,
                                      absl::Span<const int64_t> references, const uint8_t* visible,
                                      int k) {
  std::vector<ScoredPart> heap;  // the worst of those kept on top
  if (k <= 0) return heap;
  heap.reserve(std::min<size_t>(k, scores.size()));
  for (size_t i = 0; i < scores.size(); ++i) {
    if (!(scores[i] > kNoScore)) continue;  // NaN compares false
    if (visible != nullptr && visible[i] == 0) continue;
    const ScoredPart part{scores[i], references[i]};
    if (heap.size() == static_cast<size_t>(k)) {
      if (!Precedes(part, heap.front())) continue;
      std::pop_heap(heap.begin(), heap.end(), Precedes);
      heap.pop_back();
    }
    heap.push_back(part);
    std::push_heap(heap.begin(), heap.end(), Precedes);
  }
  std::sort_heap(heap.begin(), heap.end(), Precedes);
  return heap;
}

}  // namespace msa::kernels
#endif  // HWY_ONCE

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/routing.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway wants it.
#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/dot_tile-inl.h"
#include "kernels/cpu/routing.h"
#include "kernels/cpu/routing_plan.h"
#include "kernels/cpu/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace msa::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Chunks whose per-question values are kept before they are reduced over parts.
constexpr int64_t kBlockChunks = 128;

// MaxOrNan of the reference: NaN wins, so that no order of tiles can hide it.
HWY_INLINE FourVec MaxOrNan(FourVec a, FourVec b) {
  return hn::IfThenElse(hn::Or(hn::Gt(b, a), hn::IsNaN(b)), b, a);
}

// Scale of each key of a tile; 1 where keys have none.
HWY_INLINE FourVec TileScales(const float* scales, const Tiles& tiles, int64_t tile) {
  const FourTag d4;
  if (scales == nullptr) return hn::Set(d4, 1.0f);
  HWY_ALIGN float gathered[kTileKeys];
  for (int k = 0; k < kTileKeys; ++k) gathered[k] = scales[tiles.Row(tile, k)];
  return hn::Load(d4, gathered);
}

// Head mean (folded) and query max: values[question, 0 … 3] = max over the question's rows.
template <typename T>
void FoldedTile(const RoutingPlan& plan, const T* const (&keys)[kTileKeys], FourVec scales,
                float* values) {
  const FourTag d4;
  const int32_t* row_question = plan.row_question;
  DotRows(plan.queries, plan.num_rows, plan.query_width, keys, plan.key_width,
          Ahead<T>(plan.key_width), [&](int64_t row, FourVec dots) HWY_ATTR {
            float* best = values + row_question[row] * kBlockChunks;
            hn::StoreU(MaxOrNan(hn::LoadU(d4, best), hn::Mul(dots, scales)), d4, best);
          });
}

// Head max, any query reduction: heads one by one, then rows.
template <typename T>
void HeadMaxTile(const RoutingPlan& plan, const T* const (&keys)[kTileKeys], FourVec scales,
                 float* values) {
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
        best = MaxOrNan(best, hn::Mul(dots[0], scales));
      }
      reduced = MaxOrNan(reduced, best);
      HWY_ALIGN float row_scores[kTileKeys];
      hn::Store(best, d4, row_scores);
      for (int k = 0; k < kTileKeys; ++k) sums[k] += row_scores[k];
    }
    float* out = values + question * kBlockChunks;
    hn::StoreU(reduced, d4, out);
    if (plan.query_reduce == Reduce::kMean) {
      for (int k = 0; k < kTileKeys; ++k) out[k] = static_cast<float>(sums[k] / (end - begin));
    }
  }
}

template <typename T>
void ScoreTile(const RoutingPlan& plan, const T* const (&keys)[kTileKeys], FourVec scales,
               float* values) {
  if (plan.head_max) {
    HeadMaxTile(plan, keys, scales, values);
  } else {
    FoldedTile(plan, keys, scales, values);
  }
}

// Keys of 16 or 8 bits are widened once into a tile of L1 when several row groups will read them.
template <typename T>
bool WidenFirst(const RoutingPlan& plan) {
  return sizeof(T) < sizeof(float) && plan.num_rows > kTileRows;
}

// From the order of tiles to the order of chunks.
HWY_INLINE void Untile(const Tiles& tiles, const float* HWY_RESTRICT in, float* HWY_RESTRICT out) {
  for (int k = 0; k < kTileKeys; ++k) {
    const int64_t first = k * tiles.count;
    const int64_t n = std::min(tiles.count, tiles.end - tiles.begin - first);
    for (int64_t i = 0; i < n; ++i) out[first + i] = in[i * kTileKeys + k];
  }
}

// values[question, 0 … end-begin) for chunks begin … end-1; `tiled` and `widened` are scratch.
template <typename T>
void ScoreBlock(const RoutingPlan& plan, int64_t begin, int64_t end, float* widened, float* tiled,
                float* values) {
  const T* base = static_cast<const T*>(plan.keys);
  const Tiles tiles(begin, end);
  std::fill_n(tiled, plan.num_questions * kBlockChunks, kNoScore);
  for (int64_t tile = 0; tile < tiles.count; ++tile) {
    const T* keys[kTileKeys];
    TilePointers(base, tiles, tile, plan.key_width, keys);
    const FourVec scales = TileScales(plan.scales, tiles, tile);
    float* tile_values = tiled + tile * kTileKeys;
    if (WidenFirst<T>(plan)) {
      const float* wide[kTileKeys];
      for (int k = 0; k < kTileKeys; ++k) {
        WidenRow(keys[k], plan.key_width, Ahead<T>(plan.key_width), widened + k * plan.key_width);
        wide[k] = widened + k * plan.key_width;
      }
      ScoreTile<float>(plan, wide, scales, tile_values);
    } else {
      ScoreTile<T>(plan, keys, scales, tile_values);
    }
  }
  for (int question = 0; question < plan.num_questions; ++question) {
    Untile(tiles, tiled + question * kBlockChunks, values + question * kBlockChunks);
  }
}

// Scores parts [part_begin, part_end), which own consecutive chunks.
template <typename T>
void ScorePartRange(const RoutingPlan& plan, int64_t part_begin, int64_t part_end) {
  thread_local Scratch<float> value_scratch;
  thread_local Scratch<float> tiled_scratch;
  thread_local Scratch<float> widened_scratch;
  float* values = value_scratch.Get(plan.num_questions * kBlockChunks);
  float* tiled = tiled_scratch.Get(plan.num_questions * kBlockChunks);
  float* widened = widened_scratch.Get(kTileKeys * plan.key_width);
  PartReducer reducer(plan, part_begin, part_end);
  const int64_t chunk_end = plan.part_begin[part_end];
  for (int64_t begin = plan.part_begin[part_begin]; begin < chunk_end; begin += kBlockChunks) {
    const int64_t end = std::min(begin + kBlockChunks, chunk_end);
    ScoreBlock<T>(plan, begin, end, widened, tiled, values);
    reducer.Take(begin, end, values, kBlockChunks);
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
    case DType::kFloat16:
      break;
  }
  HWY_ABORT("routing keys are float32, bfloat16 or int8");
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
  // About 1 MB of float32 keys a range: small enough to balance, large enough to stream.
  const int64_t grain = std::clamp<int64_t>((int64_t{1} << 18) / plan.key_width, 64, 4096);
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

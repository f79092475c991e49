#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway wants it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/dot_tile-inl.h"
#include "kernels/cpu/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace msa::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Keys of a tile: its scores for 64 rows and its widened K and V stay in L2.
constexpr int64_t kKeyTile = 128;

// Rows (query × head of the group) of one work item and their running softmax.
struct ItemState {
  int64_t num_rows;
  int64_t width;   // head_dim rounded up to whole vectors; the surplus is zero
  float* queries;  // [num_rows, width], scale applied
  float* sums;     // [num_rows, width]: Σ weight · v
  float* tops;     // [num_rows]: largest score so far
  float* weights;  // [num_rows]: Σ weight
  float* scores;   // [num_rows, kKeyTile]
};

// K or V rows of one head and tile, as float32.
struct Rows {
  const float* data;
  int64_t stride;
};

// Tokens [first, first + num_keys) of a view, of one KV head.
struct KeyTile {
  const KvView& view;
  int64_t first;
  int64_t num_keys;
  int kv_head;
};

// Keys or values (`data`: the view's k or v) of a tile as float32 rows of `width`, zeros behind
// head_dim; in place where they lie so, else in `widened` [num_keys, width].
Rows WidenTile(const AttentionArgs& args, const KeyTile& tile, const void* data, int64_t width,
               float* widened) {
  const DType dtype = tile.view.dtype;
  const int64_t stride = static_cast<int64_t>(args.num_kv_heads) * args.head_dim;
  const int64_t offset = tile.first * stride + static_cast<int64_t>(tile.kv_head) * args.head_dim;
  if (dtype == DType::kFloat32 && width == args.head_dim) {
    return {static_cast<const float*>(data) + offset, stride};
  }
  for (int64_t t = 0; t < tile.num_keys; ++t) {
    float* out = widened + t * width;
    const int64_t at = offset + t * stride;
    if (dtype == DType::kFloat32) {
      std::copy_n(static_cast<const float*>(data) + at, args.head_dim, out);
    } else if (dtype == DType::kBFloat16) {
      WidenRow(static_cast<const BFloat16*>(data) + at, args.head_dim, 0, out);
    } else if (dtype == DType::kInt8) {
      WidenRow(static_cast<const int8_t*>(data) + at, args.head_dim, 0, out);
    } else {
      WidenRow(static_cast<const Float8*>(data) + at, args.head_dim, 0, out);
    }
    std::fill(out + args.head_dim, out + width, 0.0f);
  }
  return {widened, width};
}

void ScoreKeys(const ItemState& state, const Rows& keys, int64_t num_keys) {
  const FourTag d4;
  for (int64_t first = 0; first < num_keys; first += kTileKeys) {
    const float* tile[kTileKeys];
    for (int k = 0; k < kTileKeys; ++k) {
      tile[k] = keys.data + std::min(first + k, num_keys - 1) * keys.stride;
    }
    DotRows(state.queries, state.num_rows, state.width, tile, state.width, kTileKeys * keys.stride,
            [&](int64_t row, FourVec dots)
                HWY_ATTR { hn::StoreU(dots, d4, state.scores + row * kKeyTile + first); });
  }
}

// scores[row, t] *= scales of key t.
void ApplyScales(const ItemState& state, const float* scales, int64_t stride, int64_t num_keys) {
  HWY_ALIGN float factors[kKeyTile];
  for (int64_t t = 0; t < num_keys; ++t) factors[t] = scales[t * stride];
  for (int64_t row = 0; row < state.num_rows; ++row) {
    float* scores = state.scores + row * kKeyTile;
    for (int64_t t = 0; t < num_keys; ++t) scores[t] *= factors[t];
  }
}

// weights[i] = exp(scores[i] - top) in place; returns their sum. NaN stays NaN.
float Exponentiate(float* scores, int64_t n, float top) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  FloatVec sum = hn::Zero(d);
  for (int64_t i = 0; i < n; i += lanes) {
    const FloatVec score = hn::Load(d, scores + i);
    FloatVec weight = hn::Exp(d, hn::Sub(score, hn::Set(d, top)));
    weight = hn::IfThenElse(hn::IsNaN(score), score, weight);
    if (i + lanes > n) weight = hn::IfThenElseZero(hn::FirstN(d, n - i), weight);
    hn::Store(weight, d, scores + i);
    sum = hn::Add(sum, weight);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

float Largest(const float* scores, int64_t n) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  FloatVec largest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < n; i += lanes) {
    FloatVec score = hn::Load(d, scores + i);
    if (i + lanes > n) {
      score = hn::IfThenElse(hn::FirstN(d, n - i), score,
                             hn::Set(d, -std::numeric_limits<float>::infinity()));
    }
    largest = hn::Max(largest, score);
  }
  return hn::GetLane(hn::MaxOfLanes(d, largest));
}

// Turns a row's scores into weights against the new maximum; rescales what was summed before.
void UpdateRow(const ItemState& state, int64_t row, int64_t num_visible, int64_t num_keys) {
  const FloatTag d;
  float* scores = state.scores + row * kKeyTile;
  if (num_visible == 0) {
    std::fill_n(scores, num_keys, 0.0f);
    return;
  }
  const float old_top = state.tops[row];
  const float top = std::max(old_top, Largest(scores, num_visible));
  const float sum = Exponentiate(scores, num_visible, top);
  std::fill(scores + num_visible, scores + num_keys, 0.0f);
  if (top != old_top) {
    const float shrink = std::exp(old_top - top);
    state.weights[row] *= shrink;
    float* sums = state.sums + row * state.width;
    for (int64_t i = 0; i < state.width; i += hn::Lanes(d)) {
      hn::Store(hn::Mul(hn::Load(d, sums + i), hn::Set(d, shrink)), d, sums + i);
    }
  }
  state.tops[row] = top;
  state.weights[row] += sum;
}

// sums[row … row+kRows, i … i+kVecs·N) += weights · values.
template <int kRows, int kVecs>
HWY_INLINE void AddValuesTile(const ItemState& state, int64_t row, int64_t i, const Rows& values,
                              int64_t num_keys) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  FloatVec acc[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      acc[r][v] = hn::Load(d, state.sums + (row + r) * state.width + i + v * lanes);
    }
  }
  const float* HWY_RESTRICT weights = state.scores + row * kKeyTile;
  const float* HWY_RESTRICT value = values.data + i;
  for (int64_t t = 0; t < num_keys; ++t, value += values.stride) {
    FloatVec v[kVecs];
    for (int j = 0; j < kVecs; ++j) v[j] = hn::LoadU(d, value + j * lanes);
    for (int r = 0; r < kRows; ++r) {
      const FloatVec weight = hn::Set(d, weights[r * kKeyTile + t]);
      for (int j = 0; j < kVecs; ++j) acc[r][j] = hn::MulAdd(weight, v[j], acc[r][j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      hn::Store(acc[r][v], d, state.sums + (row + r) * state.width + i + v * lanes);
    }
  }
}

template <int kRows>
void AddValuesRows(const ItemState& state, int64_t row, const Rows& values, int64_t num_keys) {
  const int64_t lanes = hn::Lanes(FloatTag());
  int64_t i = 0;
  for (; i + 2 * lanes <= state.width; i += 2 * lanes) {
    AddValuesTile<kRows, 2>(state, row, i, values, num_keys);
  }
  if (i < state.width) AddValuesTile<kRows, 1>(state, row, i, values, num_keys);
}

void AddValues(const ItemState& state, const Rows& values, int64_t num_keys) {
  int64_t row = 0;
  for (; row + 6 <= state.num_rows; row += 6) AddValuesRows<6>(state, row, values, num_keys);
  for (; row + 3 <= state.num_rows; row += 3) AddValuesRows<3>(state, row, values, num_keys);
  for (; row < state.num_rows; ++row) AddValuesRows<1>(state, row, values, num_keys);
}

struct TileBuffers {
  float* keys;    // [kKeyTile, width]
  float* values;  // [kKeyTile, width]
};

// One tile of keys for all rows of an item; visible(row) = keys of the tile that the row sees.
template <class Visible>
void AttendTile(const AttentionArgs& args, const KeyTile& tile, const ItemState& state,
                const TileBuffers& buffers, const Visible& visible) {
  const KvView& view = tile.view;
  const int64_t num_keys = tile.num_keys;
  const Rows keys = WidenTile(args, tile, view.k, state.width, buffers.keys);
  ScoreKeys(state, keys, num_keys);
  const int64_t scale_at = tile.first * args.num_kv_heads + tile.kv_head;
  if (HasScales(view.dtype)) {
    ApplyScales(state, view.k_scales + scale_at, args.num_kv_heads, num_keys);
  }
  for (int64_t row = 0; row < state.num_rows; ++row) UpdateRow(state, row, visible(row), num_keys);
  if (HasScales(view.dtype)) {
    ApplyScales(state, view.v_scales + scale_at, args.num_kv_heads, num_keys);
  }
  const Rows values = WidenTile(args, tile, view.v, state.width, buffers.values);
  AddValues(state, values, num_keys);
}

void LoadQueries(const AttentionArgs& args, int64_t query_begin, int64_t num_queries, int kv_head,
                 const ItemState& state) {
  const int group = args.num_q_heads / args.num_kv_heads;
  for (int64_t row = 0; row < state.num_rows; ++row) {
    const int64_t head =
        (query_begin + row / group) * args.num_q_heads + kv_head * group + row % group;
    float* out = state.queries + row * state.width;
    for (int i = 0; i < args.head_dim; ++i) out[i] = args.q[head * args.head_dim + i] * args.scale;
    std::fill(out + args.head_dim, out + state.width, 0.0f);
  }
  std::fill_n(state.sums, state.num_rows * state.width, 0.0f);
  std::fill_n(state.weights, state.num_rows, 0.0f);
  std::fill_n(state.tops, state.num_rows, -std::numeric_limits<float>::infinity());
}

void StoreOutputs(const AttentionArgs& args, int64_t query_begin, int kv_head,
                  const ItemState& state) {
  const int group = args.num_q_heads / args.num_kv_heads;
  for (int64_t row = 0; row < state.num_rows; ++row) {
    const int64_t head =
        (query_begin + row / group) * args.num_q_heads + kv_head * group + row % group;
    // No key seen leaves a weight of exactly 0; a NaN weight must show.
    const float inverse = state.weights[row] == 0.0f ? 0.0f : 1.0f / state.weights[row];
    for (int i = 0; i < args.head_dim; ++i) {
      args.out[head * args.head_dim + i] = state.sums[row * state.width + i] * inverse;
    }
  }
}

// Queries [query_begin, query_end) of one KV head.
void AttendItem(const AttentionArgs& args, int kv_head, int64_t query_begin, int64_t query_end) {
  thread_local Scratch<float> scratch;
  const int64_t lanes = hn::Lanes(FloatTag());
  const int group = args.num_q_heads / args.num_kv_heads;
  ItemState state;
  state.num_rows = (query_end - query_begin) * group;
  state.width = (args.head_dim + lanes - 1) / lanes * lanes;
  // Whole cache lines, so that every part is aligned.
  const int64_t rows = (state.num_rows + 15) / 16 * 16;
  float* at =
      scratch.Get(2 * rows * state.width + 2 * rows + rows * kKeyTile + 2 * kKeyTile * state.width);
  state.queries = at;
  state.sums = at += rows * state.width;
  state.tops = at += rows * state.width;
  state.weights = at += rows;
  state.scores = at += rows;
  TileBuffers buffers;
  buffers.keys = at += rows * kKeyTile;
  buffers.values = at += kKeyTile * state.width;
  LoadQueries(args, query_begin, query_end - query_begin, kv_head, state);
  for (const KvView& block : args.blocks) {
    for (int64_t first = 0; first < block.num_tokens; first += kKeyTile) {
      const int64_t num_keys = std::min(kKeyTile, block.num_tokens - first);
      AttendTile(args, {block, first, num_keys, kv_head}, state, buffers,
                 [&](int64_t) { return num_keys; });
    }
  }
  const int64_t local_end =
      args.causal ? std::clamp<int64_t>(args.first_visible + query_end, 0, args.local.num_tokens)
                  : args.local.num_tokens;
  for (int64_t first = 0; first < local_end; first += kKeyTile) {
    const int64_t num_keys = std::min(kKeyTile, local_end - first);
    AttendTile(args, {args.local, first, num_keys, kv_head}, state, buffers, [&](int64_t row) {
      if (!args.causal) return num_keys;
      const int64_t seen = args.first_visible + query_begin + row / group + 1;
      return std::clamp<int64_t>(seen - first, 0, num_keys);
    });
  }
  StoreOutputs(args, query_begin, kv_head, state);
}

}  // namespace HWY_NAMESPACE
}  // namespace msa::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace msa::kernels {

HWY_EXPORT(AttendItem);

namespace {

// Rows (query × head of the group) of a work item: their scores of a key tile are 24 KB.
constexpr int kItemRows = 48;

int64_t TileQueries(const AttentionArgs& args) {
  return std::max(1, kItemRows / (args.num_q_heads / args.num_kv_heads));
}

int64_t NumItems(const AttentionArgs& args) {
  const int64_t tile = TileQueries(args);
  return (args.num_queries + tile - 1) / tile * args.num_kv_heads;
}

}  // namespace

void CpuAttend(absl::Span<const AttentionArgs> sequences, ThreadPool& pool) {
  thread_local Scratch<int64_t> scratch;
  int64_t* item_begin = scratch.Get(sequences.size() + 1);
  item_begin[0] = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    item_begin[s + 1] = item_begin[s] + NumItems(sequences[s]);
  }
  const int64_t num_items = item_begin[sequences.size()];
  const auto run = HWY_DYNAMIC_DISPATCH(AttendItem);
  pool.ParallelFor(0, num_items, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const size_t s =
          std::upper_bound(item_begin, item_begin + sequences.size() + 1, item) - item_begin - 1;
      const AttentionArgs& args = sequences[s];
      // Last tiles first: with a causal mask they are the longest.
      const int64_t index = item_begin[s + 1] - 1 - item;
      const int64_t tile = TileQueries(args);
      const int64_t query = index / args.num_kv_heads * tile;
      run(args, static_cast<int>(index % args.num_kv_heads), query,
          std::min<int64_t>(query + tile, args.num_queries));
    }
  });
}

}  // namespace msa::kernels
#endif  // HWY_ONCE

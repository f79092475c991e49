#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway wants it.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/dtype.h"
#include "hwy/highway.h"
#include "kernels/cpu/dense.h"
#include "kernels/cpu/dot_tile-inl.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/scratch.h"
#include "kernels/weight_format.h"

HWY_BEFORE_NAMESPACE();
namespace msa::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

static_assert(kInt8WeightGroup % hn::MaxLanes(FloatTag()) == 0);

// Few rows with weight rows of int8, widened in registers: w = scale · step, then FMA.
template <int kRows>
HWY_INLINE void DotTileGroups(const float* HWY_RESTRICT rows, size_t row_stride,
                              const int8_t* const (&keys)[kTileKeys],
                              const float* const (&scales)[kTileKeys], size_t width, size_t ahead,
                              FourVec (&sums)[kRows]) {
  const FloatTag d;
  FloatVec acc[kRows][kTileKeys];
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kTileKeys; ++k) acc[r][k] = hn::Zero(d);
  }
  for (size_t begin = 0, group = 0; begin < width; begin += kInt8WeightGroup, ++group) {
    if (group % 2 == 0) {
      for (int k = 0; k < kTileKeys; ++k) hwy::Prefetch(keys[k] + begin + ahead);
    }
    for (size_t i = begin; i < begin + kInt8WeightGroup; i += hn::Lanes(d)) {
      FloatVec x[kRows];
      for (int r = 0; r < kRows; ++r) x[r] = hn::LoadU(d, rows + r * row_stride + i);
      for (int k = 0; k < kTileKeys; ++k) {
        const FloatVec w = hn::Mul(hn::Set(d, scales[k][group]), LoadFloats(keys[k] + i));
        for (int r = 0; r < kRows; ++r) acc[r][k] = hn::MulAdd(x[r], w, acc[r][k]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = SumFour(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
}

void WidenInt8Row(const int8_t* HWY_RESTRICT in, const float* HWY_RESTRICT scales, size_t width,
                  float* HWY_RESTRICT out) {
  const FloatTag d;
  const size_t ahead = Ahead<int8_t>(width);
  for (size_t begin = 0, group = 0; begin < width; begin += kInt8WeightGroup, ++group) {
    const FloatVec scale = hn::Set(d, scales[group]);
    if (group % 2 == 0) hwy::Prefetch(in + begin + ahead);
    for (size_t i = begin; i < begin + kInt8WeightGroup; i += hn::Lanes(d)) {
      hn::StoreU(hn::Mul(scale, LoadFloats(in + i)), d, out + i);
    }
  }
}

// One weight row as float32, `w.stride()` elements.
void WidenWeights(const CpuLinearWeights& w, int64_t row, float* out) {
  if (w.format() == WeightFormat::kInt8) {
    WidenInt8Row(w.row<int8_t>(row), w.scales(row), w.stride(), out);
  } else {
    WidenRow(w.row<BFloat16>(row), w.stride(), Ahead<BFloat16>(w.stride()), out);
  }
}

// Writes the outputs of one row and tile, with bias.
HWY_INLINE void StoreOutputs(const FewRows& p, int64_t row, const Tiles& tiles, int64_t tile,
                             FourVec sums) {
  HWY_ALIGN float values[kTileKeys];
  hn::Store(sums, FourTag(), values);
  float* y = p.y + row * p.w.out_features();
  for (int k = 0; k < kTileKeys; ++k) {
    if (!tiles.Has(tile, k)) break;
    const int64_t out = tiles.Row(tile, k);
    y[out] = values[k] + (p.bias != nullptr ? p.bias[out] : 0.0f);
  }
}

// kRows rows from `row` with the weights of a tile, read as they are held. Only the first rows
// fetch ahead: the others find the weights in L1.
template <int kRows, typename T>
HWY_INLINE void StreamTile(const FewRows& p, int64_t row, const Tiles& tiles, int64_t tile) {
  const int64_t stride = p.w.stride();
  const float* x = p.x + row * stride;
  const size_t ahead = row == 0 ? Ahead<T>(stride) : 0;
  const T* keys[kTileKeys];
  TilePointers(p.w.row<T>(0), tiles, tile, stride, keys);
  FourVec sums[kRows];
  if constexpr (std::is_same_v<T, int8_t>) {
    const float* scales[kTileKeys];
    TilePointers(p.w.scales(0), tiles, tile, p.w.groups(), scales);
    DotTileGroups(x, stride, keys, scales, stride, ahead, sums);
  } else {
    DotTile(x, stride, keys, stride, ahead, sums);
  }
  for (int r = 0; r < kRows; ++r) StoreOutputs(p, row + r, tiles, tile, sums[r]);
}

template <typename T>
void StreamTiles(const FewRows& p, const Tiles& tiles) {
  for (int64_t tile = 0; tile < tiles.count; ++tile) {
    for (int64_t row = 0; row < p.rows;) {
      const int64_t n = RowsOfTile(p.rows - row);
      if (n == 3) StreamTile<3, T>(p, row, tiles, tile);
      if (n == 2) StreamTile<2, T>(p, row, tiles, tile);
      if (n == 1) StreamTile<1, T>(p, row, tiles, tile);
      row += n;
    }
  }
}

void FewRowsRange(const FewRows& p, int64_t begin, int64_t end) {
  const Tiles tiles(begin, end);
  if (p.w.format() == WeightFormat::kInt8) return StreamTiles<int8_t>(p, tiles);
  if (p.w.format() == WeightFormat::kBFloat16) return StreamTiles<BFloat16>(p, tiles);
  StreamTiles<float>(p, tiles);
}

}  // namespace HWY_NAMESPACE
}  // namespace msa::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "common/strings.h"

namespace msa::kernels {

HWY_EXPORT(FewRowsRange);
HWY_EXPORT(WidenWeights);

namespace {

// Up to this many rows the own kernels are faster than widening a panel and calling the library
// (measured on Zen 3 at the shapes of SmolLM2-135M).
int64_t FewRowsLimit(WeightFormat format) {
  switch (format) {
    case WeightFormat::kFloat32:
      return 12;
    case WeightFormat::kBFloat16:
      return 16;
    case WeightFormat::kInt8:
      break;
  }
  return 8;
}

// A product is cut into tiles of this many rows and weight rows. Tiles this small keep to oneDNN's
// kernel that packs nothing, which is the faster one here (88 of 98 GFLOP/s a core, against 75 for
// whole matrices), and there are enough of them to divide evenly.
constexpr int64_t kTileRows = 384;
constexpr int64_t kPanelRows = 96;
// That kernel takes 6 rows at a time, of the halves of a call of 97 to 191 rows; with AVX-512 it
// takes 8, of the whole. It adds in another order where fewer are left: every call is a multiple of
// 2 · 6 and of 8, so that a row's bits do not depend on its company.
constexpr int64_t kRowsAtOnce = 24;
static_assert(kTileRows % kRowsAtOnce == 0);

int64_t PaddedWidth(int64_t width) {
  return (width + kInt8WeightGroup - 1) / kInt8WeightGroup * kInt8WeightGroup;
}

void AddBias(const float* bias, int64_t rows, int64_t begin, int64_t end, int64_t stride,
             float* y) {
  if (bias == nullptr) return;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = begin; o < end; ++o) y[r * stride + o] += bias[o];
  }
}

// Few rows: parallel over the outputs.
void LinearFewRows(const CpuLinearWeights& w, const float* x, int64_t rows, const float* bias,
                   float* y, ThreadPool& pool) {
  thread_local Scratch<float> padded_scratch;
  const int64_t in = w.in_features();
  const float* padded = x;
  if (in != w.stride()) {
    float* copy = padded_scratch.Get(rows * w.stride());
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(x + r * in, in, copy + r * w.stride());
      std::fill(copy + r * w.stride() + in, copy + (r + 1) * w.stride(), 0.0f);
    }
    padded = copy;
  }
  const FewRows product{w, padded, rows, bias, y};
  const auto run = HWY_DYNAMIC_DISPATCH(FewRowsRange);
  // One range a thread where that is at most half a million weights: longer ranges stream better.
  const int64_t share = (w.out_features() + pool.num_threads() - 1) / pool.num_threads();
  const int64_t grain = std::clamp<int64_t>(share, 8, std::max<int64_t>(8, (1 << 19) / w.stride()));
  pool.ParallelFor(0, w.out_features(), grain,
                   [&](int64_t begin, int64_t end) { run(product, begin, end); });
}

// The product of `rows` rows of x with a panel of float32 weight rows, kRowsAtOnce of them at a
// time: the last ones beside rows of zeros.
void PanelProduct(const CpuLinearWeights& w, const float* panel, int64_t panel_rows, const float* x,
                  int64_t rows, float* y) {
  thread_local Scratch<float> scratch;
  const int64_t in = w.in_features();
  const int64_t out = w.out_features();
  const int64_t left = rows % kRowsAtOnce;
  const int64_t whole = rows - left;
  DenseProductArgs product{.x = x,
                           .w = panel,
                           .y = y,
                           .rows = whole,
                           .in = in,
                           .out = panel_rows,
                           .w_stride = w.stride(),
                           .y_stride = out};
  if (whole > 0) DenseProduct(product);
  if (left == 0) return;
  float* padded = scratch.Get(kRowsAtOnce * (in + kPanelRows));
  float* products = padded + kRowsAtOnce * in;
  std::copy_n(x + whole * in, left * in, padded);
  std::fill_n(padded + left * in, (kRowsAtOnce - left) * in, 0.0f);
  product.x = padded;
  product.y = products;
  product.rows = kRowsAtOnce;
  product.y_stride = panel_rows;
  DenseProduct(product);
  for (int64_t r = 0; r < left; ++r) {
    std::copy_n(products + r * panel_rows, panel_rows, y + (whole + r) * out);
  }
}

// Many rows: parallel over panels of weights, and over tiles of rows where panels are few. A panel
// that is not float32 is widened first.
void LinearManyRows(const CpuLinearWeights& w, const float* x, int64_t rows, const float* bias,
                    float* y, ThreadPool& pool) {
  const int64_t out_features = w.out_features();
  const bool widen = w.format() != WeightFormat::kFloat32;
  const auto run_widen = HWY_DYNAMIC_DISPATCH(WidenWeights);
  const int64_t panels = (out_features + kPanelRows - 1) / kPanelRows;
  const int64_t item_rows = panels >= 2 * pool.num_threads() ? rows : kTileRows;
  const auto run_item = [&](int64_t item) {
    const int64_t begin = item % panels * kPanelRows;
    const int64_t end = std::min(begin + kPanelRows, out_features);
    const float* panel = nullptr;
    if (widen) {
      thread_local Scratch<float> scratch;
      float* wide = scratch.Get(kPanelRows * w.stride());
      for (int64_t o = begin; o < end; ++o) run_widen(w, o, wide + (o - begin) * w.stride());
      panel = wide;
    } else {
      panel = w.row<float>(begin);
    }
    const int64_t first = item / panels * item_rows;
    const int64_t last = std::min(first + item_rows, rows);
    for (int64_t row = first; row < last; row += kTileRows) {
      PanelProduct(w, panel, end - begin, x + row * w.in_features(),
                   std::min(kTileRows, last - row), y + row * out_features + begin);
    }
    AddBias(bias, last - first, begin, end, out_features, y + first * out_features);
  };
  pool.ParallelFor(0, panels * ((rows + item_rows - 1) / item_rows), 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t item = begin; item < end; ++item) run_item(item);
                   });
}

void PackRow(const float* in, CpuLinearWeights& w, int64_t row) {
  const int64_t n = w.in_features();
  if (w.format() == WeightFormat::kFloat32) {
    std::copy_n(in, n, w.mutable_row<float>(row));
    std::fill(w.mutable_row<float>(row) + n, w.mutable_row<float>(row) + w.stride(), 0.0f);
  } else if (w.format() == WeightFormat::kBFloat16) {
    std::transform(in, in + n, w.mutable_row<BFloat16>(row), ToBFloat16);
    std::fill(w.mutable_row<BFloat16>(row) + n, w.mutable_row<BFloat16>(row) + w.stride(),
              BFloat16{0});
  } else {
    int8_t* out = w.mutable_row<int8_t>(row);
    std::fill(out, out + w.stride(), int8_t{0});
    for (int64_t begin = 0, group = 0; begin < n; begin += kInt8WeightGroup, ++group) {
      w.mutable_scales(row)[group] =
          CpuQuantizeRow(in + begin, std::min(kInt8WeightGroup, n - begin), out + begin);
    }
  }
}

size_t ElementBytes(WeightFormat format) {
  return format == WeightFormat::kFloat32 ? 4 : format == WeightFormat::kBFloat16 ? 2 : 1;
}

}  // namespace

CpuLinearWeights::CpuLinearWeights(int64_t out_features, int64_t in_features, WeightFormat format)
    : out_features_(out_features),
      in_features_(in_features),
      stride_(PaddedWidth(in_features)),
      format_(format),
      bytes_(hwy::AllocateAligned<uint8_t>(out_features * stride_ * ElementBytes(format))) {
  if (format == WeightFormat::kInt8) {
    scales_ = hwy::AllocateAligned<float>(out_features * groups());
  }
}

int64_t CpuLinearWeights::groups() const { return stride_ / kInt8WeightGroup; }

bool CpuLinearWeights::allocated() const {
  return bytes_ != nullptr && (format_ != WeightFormat::kInt8 || scales_ != nullptr);
}

absl::StatusOr<std::unique_ptr<LinearWeights>> CpuPackLinear(const float* w, int64_t out_features,
                                                             int64_t in_features,
                                                             WeightFormat format,
                                                             ThreadPool& pool) {
  auto packed = std::make_unique<CpuLinearWeights>(out_features, in_features, format);
  if (!packed->allocated()) {
    return absl::ResourceExhaustedError(
        StrCat("no memory for a weight matrix [", out_features, ", ", in_features,
               "]: use a smaller weight format or a machine with more memory"));
  }
  pool.ParallelFor(0, out_features, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) PackRow(w + row * in_features, *packed, row);
  });
  return std::unique_ptr<LinearWeights>(std::move(packed));
}

void CpuLinear(const CpuLinearWeights& w, const float* x, int64_t rows, const float* bias, float* y,
               ThreadPool& pool) {
  if (rows <= 0) return;
  if (rows <= FewRowsLimit(w.format())) return LinearFewRows(w, x, rows, bias, y, pool);
  LinearManyRows(w, x, rows, bias, y, pool);
}

}  // namespace msa::kernels
#endif  // HWY_ONCE

// Dot products of up to 3 float32 rows with 4 rows of any precision, in registers. The lanes run
// along the width, so keys and weights are read as they are stored, once.
//
// The order of additions of one (row, key) pair is fixed: lane l sums elements l, l+N, l+2N, … and
// the lanes are then added as a tree. It does not depend on which other rows or keys share the
// tile, nor on whether keys were widened in registers or beforehand: equal inputs give equal bits.
#if defined(MSA_KERNELS_CPU_DOT_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MSA_KERNELS_CPU_DOT_TILE_INL_H_
#undef MSA_KERNELS_CPU_DOT_TILE_INL_H_
#else
#define MSA_KERNELS_CPU_DOT_TILE_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/dtype.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/widen-inl.h"

HWY_BEFORE_NAMESPACE();
namespace msa::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FourTag = hn::Full128<float>;  // one value for each of the 4 keys of a tile
using FourVec = hn::Vec<FourTag>;

constexpr int kTileKeys = 4;
// 3 rows × 4 keys = 12 sums: enough to hide the latency of two FMA pipes, and with 4 keys and a
// row they fill the 16 registers of AVX2.
constexpr int kTileRows = 3;

HWY_INLINE FourVec FoldBlocks(FourTag, FourVec v) { return v; }
template <class D, hwy::EnableIf<(hn::MaxLanes(D()) > 4)>* = nullptr>
HWY_INLINE FourVec FoldBlocks(D d, hn::Vec<D> v) {
  const hn::Half<D> half;
  return FoldBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
}

// Lane i = the sum of the lanes of the i-th argument.
HWY_INLINE FourVec SumFour(FloatVec a, FloatVec b, FloatVec c, FloatVec e) {
  const FloatTag d;
  const hn::Repartition<double, FloatTag> d64;
  const auto ab =
      hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce =
      hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const auto blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab, ce)),
                              hn::BitCast(d, hn::InterleaveUpper(d64, ab, ce)));
  return FoldBlocks(d, blocks);
}

// One vector of every row and key.
template <int kRows, typename T>
HWY_INLINE void DotStep(const float* HWY_RESTRICT rows, size_t row_stride,
                        const T* const (&keys)[kTileKeys], size_t i,
                        FloatVec (&acc)[kRows][kTileKeys]) {
  FloatVec x[kRows];
  for (int r = 0; r < kRows; ++r) x[r] = hn::LoadU(FloatTag(), rows + r * row_stride + i);
  for (int k = 0; k < kTileKeys; ++k) {
    const FloatVec key = LoadFloats(keys[k] + i);
    for (int r = 0; r < kRows; ++r) acc[r][k] = hn::MulAdd(x[r], key, acc[r][k]);
  }
}

// sums[r] = dots of row r with the 4 keys, `rows` being row_stride apart. The line `ahead` elements
// behind each that is read is fetched into cache: what the next tiles will read. The hardware's
// prefetcher alone leaves a pass of one row at half the memory bandwidth.
template <int kRows, typename T>
HWY_INLINE void DotTile(const float* HWY_RESTRICT rows, size_t row_stride,
                        const T* const (&keys)[kTileKeys], size_t width, size_t ahead,
                        FourVec (&sums)[kRows]) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kLine = 64 / sizeof(T);
  FloatVec acc[kRows][kTileKeys];
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kTileKeys; ++k) acc[r][k] = hn::Zero(d);
  }
  size_t i = 0;
  for (; i + kLine <= width; i += kLine) {
    for (int k = 0; k < kTileKeys; ++k) hwy::Prefetch(keys[k] + ahead + i);
    for (size_t j = i; j < i + kLine; j += lanes) DotStep(rows, row_stride, keys, j, acc);
  }
  for (; i + lanes <= width; i += lanes) DotStep(rows, row_stride, keys, i, acc);
  if (HWY_UNLIKELY(i < width)) {
    for (int r = 0; r < kRows; ++r) {
      const FloatVec x = LoadTail(rows + r * row_stride + i, width - i);
      for (int k = 0; k < kTileKeys; ++k) {
        acc[r][k] = hn::MulAdd(x, LoadTail(keys[k] + i, width - i), acc[r][k]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) sums[r] = SumFour(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
}

// How many of `left` rows the next tile takes: 3, but 2 where that would leave one alone, whose
// four sums do not hide the latency of an addition.
HWY_INLINE int64_t RowsOfTile(int64_t left) {
  return left == 4 ? 2 : std::min<int64_t>(left, kTileRows);
}

// Calls done(row, sums) for every one of num_rows rows against 4 keys. `ahead` as in DotTile.
template <typename T, class Done>
HWY_INLINE void DotRows(const float* HWY_RESTRICT rows, int64_t num_rows, size_t row_stride,
                        const T* const (&keys)[kTileKeys], size_t width, size_t ahead,
                        Done&& done) {
  const auto tile = [&]<int kRows>(int64_t r) HWY_ATTR {
    FourVec sums[kRows];
    DotTile(rows + r * row_stride, row_stride, keys, width, r == 0 ? ahead : 0, sums);
    for (int i = 0; i < kRows; ++i) done(r + i, sums[i]);
  };
  for (int64_t r = 0; r < num_rows;) {
    const int64_t n = RowsOfTile(num_rows - r);
    if (n == 3) tile.template operator()<3>(r);
    if (n == 2) tile.template operator()<2>(r);
    if (n == 1) tile.template operator()<1>(r);
    r += n;
  }
}

// Rows [begin, end) in tiles of `ways` (4 or 8) that lie as far apart as they can: long streams,
// each in pages of its own, which the hardware follows; short neighbours it does not. A tile
// reaches beyond the end where there are fewer rows than it has places; the last row is then
// repeated.
struct Tiles {
  Tiles(int64_t begin, int64_t end, int ways = kTileKeys)
      : begin(begin), end(end), ways(ways), count((end - begin + ways - 1) / ways) {}
  int64_t Row(int64_t tile, int k) const { return std::min(begin + tile + k * count, end - 1); }
  bool Has(int64_t tile, int k) const { return begin + tile + k * count < end; }

  int64_t begin;
  int64_t end;
  int ways;
  int64_t count;  // of tiles, and rows between the keys of one
};

template <int kWays, typename T>
HWY_INLINE void TilePointers(const T* base, const Tiles& tiles, int64_t tile, size_t stride,
                             const T* (&keys)[kWays]) {
  for (int k = 0; k < kWays; ++k) {
    keys[k] = base + tiles.Row(tile, k) * static_cast<int64_t>(stride);
  }
}

// Elements between what is read and what is fetched: whole rows, 2 KB or more.
template <typename T>
HWY_INLINE size_t Ahead(size_t stride) {
  return (2048 / sizeof(T) + stride - 1) / stride * stride;
}

}  // namespace HWY_NAMESPACE
}  // namespace msa::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

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

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace msa::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;
using FourTag = hn::Full128<float>;  // one value for each of the 4 keys of a tile
using FourVec = hn::Vec<FourTag>;

constexpr int kTileKeys = 4;
// 3 rows × 4 keys = 12 sums: enough to hide the latency of two FMA pipes, and with 4 keys and a
// row they fill the 16 registers of AVX2.
constexpr int kTileRows = 3;

// N elements widened to float32.
HWY_INLINE FloatVec LoadFloats(const float* p) { return hn::LoadU(FloatTag(), p); }
HWY_INLINE FloatVec LoadFloats(const BFloat16* p) {
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::Rebind<uint32_t, FloatTag> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
HWY_INLINE FloatVec LoadFloats(const int8_t* p) {
  const hn::Rebind<int8_t, FloatTag> d8;
  const hn::Rebind<int32_t, FloatTag> d32;
  return hn::ConvertTo(FloatTag(), hn::PromoteTo(d32, hn::LoadU(d8, p)));
}

HWY_INLINE float WidenOne(float x) { return x; }
HWY_INLINE float WidenOne(BFloat16 x) { return ToFloat(x); }
HWY_INLINE float WidenOne(int8_t x) { return x; }

// The first n < N elements, zeros after them.
template <typename T>
HWY_INLINE FloatVec LoadTail(const T* p, size_t n) {
  HWY_ALIGN float padded[hn::MaxLanes(FloatTag())] = {};
  for (size_t i = 0; i < n; ++i) padded[i] = WidenOne(p[i]);
  return hn::Load(FloatTag(), padded);
}

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

// sums[r] = dots of row r with the 4 keys, `rows` being row_stride apart.
template <int kRows, typename T>
HWY_INLINE void DotTile(const float* HWY_RESTRICT rows, size_t row_stride,
                        const T* const (&keys)[kTileKeys], size_t width, FourVec (&sums)[kRows]) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  FloatVec acc[kRows][kTileKeys];
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kTileKeys; ++k) acc[r][k] = hn::Zero(d);
  }
  const T* HWY_RESTRICT key0 = keys[0];
  const T* HWY_RESTRICT key1 = keys[1];
  const T* HWY_RESTRICT key2 = keys[2];
  const T* HWY_RESTRICT key3 = keys[3];
  size_t i = 0;
  for (; i + lanes <= width; i += lanes) {
    const FloatVec k0 = LoadFloats(key0 + i);
    const FloatVec k1 = LoadFloats(key1 + i);
    const FloatVec k2 = LoadFloats(key2 + i);
    const FloatVec k3 = LoadFloats(key3 + i);
    for (int r = 0; r < kRows; ++r) {
      const FloatVec x = hn::LoadU(d, rows + r * row_stride + i);
      acc[r][0] = hn::MulAdd(x, k0, acc[r][0]);
      acc[r][1] = hn::MulAdd(x, k1, acc[r][1]);
      acc[r][2] = hn::MulAdd(x, k2, acc[r][2]);
      acc[r][3] = hn::MulAdd(x, k3, acc[r][3]);
    }
  }
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

// Calls done(row, sums) for every one of num_rows rows against 4 keys.
template <typename T, class Done>
HWY_INLINE void DotRows(const float* HWY_RESTRICT rows, int64_t num_rows, size_t row_stride,
                        const T* const (&keys)[kTileKeys], size_t width, Done&& done) {
  int64_t r = 0;
  for (; r + kTileRows <= num_rows; r += kTileRows) {
    FourVec sums[kTileRows];
    DotTile<kTileRows>(rows + r * row_stride, row_stride, keys, width, sums);
    for (int i = 0; i < kTileRows; ++i) done(r + i, sums[i]);
  }
  if (num_rows - r == 2) {
    FourVec sums[2];
    DotTile<2>(rows + r * row_stride, row_stride, keys, width, sums);
    done(r, sums[0]);
    done(r + 1, sums[1]);
  } else if (num_rows - r == 1) {
    FourVec sums[1];
    DotTile<1>(rows + r * row_stride, row_stride, keys, width, sums);
    done(r, sums[0]);
  }
}

// Pointers to 4 consecutive rows from `first`, the last one repeated where fewer than 4 are left:
// a tile may then be computed whole and its surplus thrown away.
template <typename T>
HWY_INLINE void TilePointers(const T* base, int64_t first, int64_t end, size_t stride,
                             const T* (&keys)[kTileKeys]) {
  for (int k = 0; k < kTileKeys; ++k) {
    keys[k] = base + HWY_MIN(first + k, end - 1) * static_cast<int64_t>(stride);
  }
}

// out[i] = in[i] as float32.
template <typename T>
HWY_INLINE void WidenRow(const T* HWY_RESTRICT in, size_t n, float* HWY_RESTRICT out) {
  const FloatTag d;
  size_t i = 0;
  for (; i + hn::Lanes(d) <= n; i += hn::Lanes(d)) hn::StoreU(LoadFloats(in + i), d, out + i);
  for (; i < n; ++i) out[i] = WidenOne(in[i]);
}

}  // namespace HWY_NAMESPACE
}  // namespace msa::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

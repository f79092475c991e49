// Elements of any stored precision as float32, in registers or into a buffer.
#if defined(MSA_KERNELS_CPU_WIDEN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MSA_KERNELS_CPU_WIDEN_INL_H_
#undef MSA_KERNELS_CPU_WIDEN_INL_H_
#else
#define MSA_KERNELS_CPU_WIDEN_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace msa::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

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

// As float16 by a shift, 2^8 too small; as float32 its subnormals would be slow on some processors.
HWY_INLINE FloatVec LoadFloats(const Float8* p) {
  const hn::Rebind<int8_t, FloatTag> d8;
  const hn::Rebind<int16_t, FloatTag> d16;
  const hn::Rebind<hwy::float16_t, FloatTag> half;
  const auto wide = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const int8_t*>(p)));
  // The sign has come with the promotion, in two places.
  const auto bits = hn::AndNot(hn::Set(d16, 0x4000), hn::ShiftLeft<7>(wide));
  return hn::Mul(hn::PromoteTo(FloatTag(), hn::BitCast(half, bits)), hn::Set(FloatTag(), 256.0f));
}

HWY_INLINE float WidenOne(float x) { return x; }
HWY_INLINE float WidenOne(BFloat16 x) { return ToFloat(x); }
HWY_INLINE float WidenOne(int8_t x) { return x; }
HWY_INLINE float WidenOne(Float8 x) { return ToFloat(x); }

// The first n < N elements, zeros after them.
template <typename T>
HWY_INLINE FloatVec LoadTail(const T* p, size_t n) {
  HWY_ALIGN float padded[hn::MaxLanes(FloatTag())] = {};
  for (size_t i = 0; i < n; ++i) padded[i] = WidenOne(p[i]);
  return hn::Load(FloatTag(), padded);
}

// out[i] = in[i] as float32; fetches what lies `ahead` elements behind.
template <typename T>
HWY_INLINE void WidenRow(const T* HWY_RESTRICT in, size_t n, size_t ahead,
                         float* HWY_RESTRICT out) {
  const FloatTag d;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kLine = 64 / sizeof(T);
  size_t i = 0;
  for (; i + kLine <= n; i += kLine) {
    hwy::Prefetch(in + ahead + i);
    for (size_t j = i; j < i + kLine; j += lanes) hn::StoreU(LoadFloats(in + j), d, out + j);
  }
  for (; i + lanes <= n; i += lanes) hn::StoreU(LoadFloats(in + i), d, out + i);
  for (; i < n; ++i) out[i] = WidenOne(in[i]);
}

}  // namespace HWY_NAMESPACE
}  // namespace msa::kernels
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard

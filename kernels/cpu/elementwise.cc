#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway wants it.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/cpu/dot_tile-inl.h"
#include "kernels/cpu/elementwise.h"

HWY_BEFORE_NAMESPACE();
namespace msa::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void Add(float* HWY_RESTRICT x, const float* HWY_RESTRICT y, int64_t n) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, x + i);
  }
  for (; i < n; ++i) x[i] += y[i];
}

void Scale(float* x, int64_t n, float factor) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, x + i);
  }
  for (; i < n; ++i) x[i] *= factor;
}

// Highway's Exp does not saturate: beyond 88, where the result is below 1e-36, it is held.
HWY_INLINE FloatVec Silu(FloatVec x) {
  const FloatTag d;
  const FloatVec exponent = hn::Min(hn::Neg(x), hn::Set(d, 88.0f));
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), hn::Exp(d, exponent)));
}

void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Mul(Silu(hn::LoadU(d, gate + i)), hn::LoadU(d, up + i)), d, out + i);
  }
  if (i == n) return;
  HWY_ALIGN float products[hn::MaxLanes(FloatTag())];
  hn::Store(hn::Mul(Silu(LoadTail(gate + i, n - i)), LoadTail(up + i, n - i)), d, products);
  std::copy_n(products, n - i, out + i);
}

float SumOfSquares(const float* x, int64_t n) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  FloatVec sum0 = hn::Zero(d);
  FloatVec sum1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const FloatVec a = hn::LoadU(d, x + i);
    const FloatVec b = hn::LoadU(d, x + i + lanes);
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

void ScaleMul(const float* x, float factor, const float* weight, int64_t n, float* out) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const FloatVec scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor));
    hn::StoreU(hn::Mul(scaled, hn::LoadU(d, weight + i)), d, out + i);
  }
  for (; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

void Rotate(float* HWY_RESTRICT x, const float* HWY_RESTRICT cosines,
            const float* HWY_RESTRICT sines, int64_t half) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const FloatVec low = hn::LoadU(d, x + i);
    const FloatVec high = hn::LoadU(d, x + half + i);
    const FloatVec cosine = hn::LoadU(d, cosines + i);
    const FloatVec sine = hn::LoadU(d, sines + i);
    hn::StoreU(hn::NegMulAdd(high, sine, hn::Mul(low, cosine)), d, x + i);
    hn::StoreU(hn::MulAdd(low, sine, hn::Mul(high, cosine)), d, x + half + i);
  }
  for (; i < half; ++i) {
    const float low = x[i];
    const float high = x[half + i];
    x[i] = low * cosines[i] - high * sines[i];
    x[half + i] = high * cosines[i] + low * sines[i];
  }
}

// NaN where x has one, so that it cannot hide behind a larger element.
float LargestMagnitude(const float* x, int64_t n) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  FloatVec largest = hn::Zero(d);
  auto has_nan = hn::IsNaN(largest);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const FloatVec v = hn::LoadU(d, x + i);
    has_nan = hn::Or(has_nan, hn::IsNaN(v));
    largest = hn::Max(largest, hn::Abs(v));
  }
  float result = hn::AllFalse(d, has_nan) ? hn::GetLane(hn::MaxOfLanes(d, largest)) : NAN;
  for (; i < n; ++i) {
    const float magnitude = std::fabs(x[i]);
    if (magnitude > result || magnitude != magnitude) result = magnitude;
  }
  return result;
}

float QuantizeRow(const float* x, int64_t n, int8_t* out) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> d32;
  const hn::Rebind<int8_t, FloatTag> d8;
  const int64_t lanes = hn::Lanes(d);
  const float scale = LargestMagnitude(x, n) / 127.0f;
  const FloatVec divisor = hn::Set(d, scale);
  const FloatVec limit = hn::Set(d, 127.0f);
  HWY_ALIGN int8_t steps[hn::MaxLanes(FloatTag())];
  for (int64_t i = 0; i < n; i += lanes) {
    const bool whole = i + lanes <= n;
    const FloatVec v = whole ? hn::LoadU(d, x + i) : LoadTail(x + i, n - i);
    const FloatVec ratio = hn::Round(hn::Div(v, divisor));
    // 0 / 0, or a NaN in the row: steps of 0, and the scale says which.
    const FloatVec finite = hn::IfThenZeroElse(hn::IsNaN(ratio), ratio);
    const FloatVec clamped = hn::Max(hn::Min(finite, limit), hn::Neg(limit));
    const auto bytes = hn::DemoteTo(d8, hn::ConvertTo(d32, clamped));
    if (whole) {
      hn::StoreU(bytes, d8, out + i);
    } else {
      hn::StoreU(bytes, d8, steps);
      std::copy_n(steps, n - i, out + i);
    }
  }
  return scale;
}

float QuantizeRowFloat8(const float* x, int64_t n, Float8* out) {
  const float scale = LargestMagnitude(x, n) / kFloat8Max;
  for (int64_t i = 0; i < n; ++i) {
    const float steps = x[i] / scale;
    out[i] = ToFloat8(steps == steps ? steps : 0.0f);  // as in QuantizeRow
  }
  return scale;
}

template <typename T>
void DequantizeRow(const T* x, int64_t n, float scale, float* out) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Mul(hn::Set(d, scale), LoadFloats(x + i)), d, out + i);
  }
  for (; i < n; ++i) out[i] = scale * WidenOne(x[i]);
}

void DequantizeInt8(const int8_t* x, int64_t n, float scale, float* out) {
  DequantizeRow(x, n, scale, out);
}
void DequantizeFloat8(const Float8* x, int64_t n, float scale, float* out) {
  DequantizeRow(x, n, scale, out);
}

void WidenBFloat16(const void* in, int64_t n, float* out) {
  WidenRow(static_cast<const BFloat16*>(in), n, 0, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace msa::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace msa::kernels {

HWY_EXPORT(Add);
HWY_EXPORT(Scale);
HWY_EXPORT(SiluMul);
HWY_EXPORT(SumOfSquares);
HWY_EXPORT(ScaleMul);
HWY_EXPORT(Rotate);
HWY_EXPORT(QuantizeRow);
HWY_EXPORT(QuantizeRowFloat8);
HWY_EXPORT(DequantizeInt8);
HWY_EXPORT(DequantizeFloat8);
HWY_EXPORT(WidenBFloat16);

void CpuAdd(float* x, const float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(Add)(x, y, n); }
void CpuScale(float* x, int64_t n, float factor) { HWY_DYNAMIC_DISPATCH(Scale)(x, n, factor); }
void CpuSiluMul(const float* gate, const float* up, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(SiluMul)(gate, up, n, out);
}
float CpuSumOfSquares(const float* x, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(SumOfSquares)(x, n);
}
void CpuScaleMul(const float* x, float factor, const float* weight, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(ScaleMul)(x, factor, weight, n, out);
}
void CpuRotate(float* x, const float* cosines, const float* sines, int64_t half) {
  HWY_DYNAMIC_DISPATCH(Rotate)(x, cosines, sines, half);
}
float CpuQuantizeRow(const float* x, int64_t n, int8_t* out) {
  return HWY_DYNAMIC_DISPATCH(QuantizeRow)(x, n, out);
}
void CpuDequantizeRow(const int8_t* x, int64_t n, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(DequantizeInt8)(x, n, scale, out);
}
float CpuQuantizeRow(const float* x, int64_t n, Float8* out) {
  return HWY_DYNAMIC_DISPATCH(QuantizeRowFloat8)(x, n, out);
}
void CpuDequantizeRow(const Float8* x, int64_t n, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(DequantizeFloat8)(x, n, scale, out);
}
void CpuWidenBFloat16(const void* in, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(WidenBFloat16)(in, n, out);
}

}  // namespace msa::kernels
#endif  // HWY_ONCE

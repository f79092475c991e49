// Element types of stored and computed tensors, and conversion to and from the narrow ones.
#ifndef MSA_COMMON_DTYPE_H_
#define MSA_COMMON_DTYPE_H_

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace msa {

// The numbers are written to disk (docs/storage_format.md): never reuse one.
enum class DType : uint8_t { kFloat32 = 1, kBFloat16 = 2, kInt8 = 3, kFloat16 = 4, kFloat8 = 5 };

// Bytes an element takes: 4, 2 or 1.
constexpr size_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 4;
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
    case DType::kInt8:
    case DType::kFloat8:
      return 1;
  }
  return 0;
}

// Whether values are steps times a float32 scale that their row shares (kernels/types.h).
constexpr bool HasScales(DType dtype) { return dtype == DType::kInt8 || dtype == DType::kFloat8; }

// Whether a bank may keep its keys or content so.
constexpr bool IsStored(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || HasScales(dtype);
}

// "f32", "bf16", "f16", "int8", "fp8": the names of flags, JSON and messages.
std::string_view DTypeName(DType dtype);
// INVALID_ARGUMENT that lists the names when `name` is none of them.
absl::StatusOr<DType> ParseDType(std::string_view name);

// The upper 16 bits of a float32.
struct BFloat16 {
  uint16_t bits;
};

// Rounds to nearest, ties to even; NaN stays NaN.
inline BFloat16 ToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}

inline float ToFloat(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// e4m3 as hardware has it: sign, 4 exponent bits of bias 7, 3 mantissa bits. The largest is 448,
// the smallest 2^-9; 0x7F and 0xFF are NaN; there is no infinity.
struct Float8 {
  uint8_t bits;
};
inline constexpr float kFloat8Max = 448.0f;

// Rounds to nearest, ties to even; beyond 448, infinities too, to 448; NaN stays NaN.
inline Float8 ToFloat8(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80;
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return {static_cast<uint8_t>(sign | 0x7F)};
  uint32_t code;
  if (magnitude < 0x3C800000) {  // below 2^-6: in steps of 2^-9, the last bit of a sum with 2^14
    code = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 16384.0f) - 0x46800000;
  } else {
    code = (magnitude + 0x7FFFF + ((magnitude >> 20) & 1) - (120u << 23)) >> 20;
  }
  return {static_cast<uint8_t>(sign | (code < 0x7E ? code : 0x7E))};
}

inline float ToFloat(Float8 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x80) << 24;
  const uint32_t magnitude = value.bits & 0x7F;
  uint32_t bits = (magnitude << 20) + (120u << 23);
  if (magnitude < 8) bits = std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-9f);
  if (magnitude == 0x7F) bits = 0x7FC00000;
  return std::bit_cast<float>(sign | bits);
}

}  // namespace msa

#endif  // MSA_COMMON_DTYPE_H_

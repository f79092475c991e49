// Element types of stored and computed tensors, and bfloat16 conversion.
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
enum class DType : uint8_t { kFloat32 = 1, kBFloat16 = 2, kInt8 = 3, kFloat16 = 4 };

// Bytes an element takes: 4, 2 or 1.
constexpr size_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 4;
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
    case DType::kInt8:
      return 1;
  }
  return 0;
}

// "f32", "bf16", "f16", "int8": the names of flags, JSON and messages.
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

}  // namespace msa

#endif  // MSA_COMMON_DTYPE_H_

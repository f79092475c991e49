// Element-by-element access to tensors of any precision, for code that values plainness over speed.
#ifndef MSA_KERNELS_REFERENCE_ELEMENTS_H_
#define MSA_KERNELS_REFERENCE_ELEMENTS_H_

#include <cstdint>

#include "common/check.h"
#include "common/dtype.h"

namespace msa::kernels {

// Element i of `data` as stored, without any scale; of any type but kFloat16.
inline double ElementAt(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(data)[i];
    case DType::kBFloat16:
      return ToFloat(static_cast<const BFloat16*>(data)[i]);
    case DType::kInt8:
      return static_cast<const int8_t*>(data)[i];
    case DType::kFloat8:
      return ToFloat(static_cast<const Float8*>(data)[i]);
    case DType::kFloat16:
      break;
  }
  MSA_CHECK(false);
  return 0;
}

// The larger of two scores; NaN wins, since a score that could not be computed must not hide.
template <typename T>
T MaxOrNan(T a, T b) {
  return b > a || b != b ? b : a;
}

}  // namespace msa::kernels

#endif  // MSA_KERNELS_REFERENCE_ELEMENTS_H_

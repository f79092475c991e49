#include "common/dtype.h"

#include "absl/status/status.h"
#include "common/strings.h"

namespace msa {

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "f32";
    case DType::kBFloat16:
      return "bf16";
    case DType::kFloat16:
      return "f16";
    case DType::kInt8:
      return "int8";
    case DType::kFloat8:
      return "fp8";
  }
  return "unknown";
}

absl::StatusOr<DType> ParseDType(std::string_view name) {
  for (DType dtype :
       {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kInt8, DType::kFloat8}) {
    if (name == DTypeName(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(
      StrCat("unknown precision '", name, "': use f32, bf16, f16, int8 or fp8"));
}

}  // namespace msa

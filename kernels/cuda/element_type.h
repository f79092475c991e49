// Element types of tensors on the device. The numbers are those of msa::DType (common/dtype.h), so
// that a cast converts; device code does not include that header, which brings Abseil with it.
#ifndef MSA_KERNELS_CUDA_ELEMENT_TYPE_H_
#define MSA_KERNELS_CUDA_ELEMENT_TYPE_H_

#include <cstddef>
#include <cstdint>

namespace msa::kernels::cuda {

enum class ElementType : uint8_t {
  kFloat32 = 1,
  kBFloat16 = 2,
  kInt8 = 3,
  kFloat16 = 4,
  kFloat8E4M3 = 5,
};

constexpr size_t ElementBytes(ElementType type) {
  switch (type) {
    case ElementType::kFloat32:
      return 4;
    case ElementType::kBFloat16:
    case ElementType::kFloat16:
      return 2;
    case ElementType::kInt8:
    case ElementType::kFloat8E4M3:
      return 1;
  }
  return 0;
}

// Whether values are steps · scale with one float32 scale a row: int8 and fp8.
constexpr bool IsScaled(ElementType type) {
  return type == ElementType::kInt8 || type == ElementType::kFloat8E4M3;
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ELEMENT_TYPE_H_

// K or V of a view on both sides, with the doubles its elements stand for.
#ifndef MSA_TESTS_GPU_TENSOR_H_
#define MSA_TESTS_GPU_TENSOR_H_

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <memory>

#include "kernels/cuda/element_type.h"
#include "tests/gpu/gpu_test.h"

namespace msa::kernels::cuda {

using ::msa::testing::DeviceBuffer;
using ::msa::testing::RandomFloats;

inline constexpr auto kF32 = ElementType::kFloat32;
inline constexpr auto kBf16 = ElementType::kBFloat16;
inline constexpr auto kInt8 = ElementType::kInt8;
inline constexpr auto kFp8 = ElementType::kFloat8E4M3;
struct Tensor {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;   // [tokens · heads], scaled types
  std::vector<double> values;  // what the bytes stand for
  std::unique_ptr<DeviceBuffer<uint8_t>> device;
  std::unique_ptr<DeviceBuffer<float>> device_scales;

  Tensor(int64_t rows, int dim, ElementType type, uint32_t seed)
      : bytes(rows * dim * ElementBytes(type)), values(rows * dim) {
    const std::vector<float> x = RandomFloats(rows * dim, seed);
    for (int64_t r = 0; r < rows; ++r) {
      const float scale = 1.0f / 40 * static_cast<float>(1 + r % 3);
      if (IsScaled(type)) scales.push_back(scale);
      for (int d = 0; d < dim; ++d) Set(r * dim + d, type, x[r * dim + d], scale);
    }
    Upload();
  }

  void Set(int64_t i, ElementType type, float x, float scale) {
    if (type == kF32) {
      reinterpret_cast<float*>(bytes.data())[i] = x;
      values[i] = x;
    } else if (type == kBf16) {
      const __nv_bfloat16 rounded = __float2bfloat16_rn(x);
      std::memcpy(bytes.data() + 2 * i, &rounded, 2);
      values[i] = __bfloat162float(rounded);
    } else if (type == kInt8) {
      const float steps = std::clamp(std::round(x / scale), -127.0f, 127.0f);
      bytes[i] = static_cast<uint8_t>(static_cast<int8_t>(steps));
      values[i] = double{steps} * scale;
    } else {
      const __nv_fp8_e4m3 steps(x / scale);
      std::memcpy(bytes.data() + i, &steps, 1);
      values[i] = double{static_cast<float>(steps)} * scale;
    }
  }

  void Upload() {
    device = std::make_unique<DeviceBuffer<uint8_t>>(bytes);
    device_scales = std::make_unique<DeviceBuffer<float>>(scales);
  }
};

}  // namespace msa::kernels::cuda

#endif  // MSA_TESTS_GPU_TENSOR_H_

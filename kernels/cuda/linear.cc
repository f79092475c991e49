#include "kernels/cuda/linear.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "common/strings.h"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/staging.h"
#include "kernels/weight_format.h"

namespace msa::kernels::cuda {
namespace {

// Each row to the values of its int8 grid.
void RoundToInt8(float* w, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r, w += width) {
    for (int64_t begin = 0; begin < width; begin += kInt8WeightGroup) {
      const int64_t end = std::min(begin + kInt8WeightGroup, width);
      float largest = 0;
      for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(w[i]));
      const float scale = largest / 127.0f;
      if (scale == 0) continue;
      for (int64_t i = begin; i < end; ++i) w[i] = std::nearbyint(w[i] / scale) * scale;
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Products>> Products::Make(Device& device) {
  std::unique_ptr<Products> products(new Products(device));
  device.Activate();
  absl::MutexLock lock(&products->mutex_);
  if (cublasCreate(&products->handle_) != CUBLAS_STATUS_SUCCESS ||
      cublasSetStream(products->handle_, device.stream()) != CUBLAS_STATUS_SUCCESS) {
    return absl::FailedPreconditionError(
        "cuBLAS does not start: its libraries must fit the driver, and a little GPU memory be "
        "free");
  }
  return products;
}

Products::~Products() {
  device_.Activate();
  absl::MutexLock lock(&mutex_);
  if (handle_ != nullptr) cublasDestroy(handle_);
}

void Products::Check(cublasStatus_t status) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const cudaError_t error = cudaGetLastError();
  device_.Check(error == cudaSuccess ? cudaErrorUnknown : error, "a dense product");
}

absl::StatusOr<std::unique_ptr<LinearWeights>> Products::Pack(const float* w, int64_t out_features,
                                                              int64_t in_features,
                                                              WeightFormat format) {
  const int64_t count = out_features * in_features;
  const bool half = format != WeightFormat::kFloat32;
  std::vector<float> rounded;
  if (format == WeightFormat::kInt8) {
    rounded.assign(w, w + count);
    RoundToInt8(rounded.data(), out_features, in_features);
    w = rounded.data();
  }
  MSA_ASSIGN_OR_RETURN(Buffer data,
                       device_.Allocate(count * (half ? 2 : 4), Backend::Purpose::kWork));
  if (half) {
    Staging staging(device_);
    const float* staged = staging.In(w, count);
    if (staging.failed()) return device_.health();
    device_.Check(Quantize(staged, out_features, in_features, ElementType::kBFloat16, data.data(),
                           nullptr, device_.stream()),
                  "packing weights");
  } else {
    device_.Copy(data.data(), w, count * sizeof(float));
  }
  MSA_RETURN_IF_ERROR(device_.health());
  return std::make_unique<CudaLinearWeights>(std::move(data), half, out_features, in_features);
}

void Products::Linear(const CudaLinearWeights& w, const float* x, int64_t rows, const float* bias,
                      float* y) {
  if (rows == 0 || w.out_features() == 0) return;
  const auto m = static_cast<int>(w.out_features());
  const auto n = static_cast<int>(rows);
  const auto k = static_cast<int>(w.in_features());
  const float one = 1.0f, zero = 0.0f;
  Staging staging(device_);
  // Column-major to cuBLAS: yᵀ [m, n] = (wᵀ)ᵀ · xᵀ.
  if (w.half()) {
    void* half = staging.Room(rows * w.in_features() * 2);
    if (staging.failed()) return;
    device_.Check(
        Quantize(x, rows, w.in_features(), ElementType::kBFloat16, half, nullptr, device_.stream()),
        "rounding activations");
    absl::MutexLock lock(&mutex_);
    Check(cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, w.data(), CUDA_R_16BF, k,
                       half, CUDA_R_16BF, k, &zero, y, CUDA_R_32F, m, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT));
  } else {
    absl::MutexLock lock(&mutex_);
    Check(cublasSgemm(handle_, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one,
                      static_cast<const float*>(w.data()), k, x, k, &zero, y, m));
  }
  if (bias != nullptr) {
    device_.Check(AddBias(y, bias, rows, w.out_features(), device_.stream()), "adding a bias");
  }
}

}  // namespace msa::kernels::cuda

#include "kernels/cuda/linear.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "common/strings.h"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/skinny.h"
#include "kernels/cuda/staging.h"
#include "kernels/weight_format.h"

namespace msa::kernels::cuda {
namespace {

// What NVIDIA advises for Hopper; a recording must not take memory of its own.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

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

SkinnyArgs SkinnyOf(const CudaLinearWeights& w, const LinearArgs& args) {
  SkinnyArgs skinny;
  skinny.w = w.data();
  skinny.out_features = w.out_features();
  skinny.in_features = w.in_features();
  skinny.x = args.x;
  skinny.x_half = args.x_dtype == DType::kBFloat16;
  skinny.rows = args.rows;
  skinny.norm = args.norm;
  skinny.eps = args.eps;
  skinny.bias = args.bias;
  skinny.then = static_cast<SkinnyThen>(args.then);
  skinny.y = args.y;
  skinny.y_half = args.y_dtype == DType::kBFloat16;
  return skinny;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Products>> Products::Make(Device& device) {
  std::unique_ptr<Products> products(new Products(device));
  device.Activate();
  absl::MutexLock lock(&products->mutex_);
  MSA_ASSIGN_OR_RETURN(products->workspace_, device.AllocateScratch(kWorkspaceBytes));
  if (cublasCreate(&products->handle_) != CUBLAS_STATUS_SUCCESS) {
    return absl::FailedPreconditionError(
        "cuBLAS does not start: its libraries must fit the driver, and a little GPU memory be "
        "free");
  }
  return products;
}

Products::~Products() {
  device_.Wait();  // here, with a limit, not in the library
  device_.Activate();
  absl::MutexLock lock(&mutex_);
  if (handle_ != nullptr && !device_.failed()) cublasDestroy(handle_);
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

cublasHandle_t Products::Handle() {
  const cudaStream_t stream = device_.stream();
  if (handle_stream_ != stream) {
    Check(cublasSetStream(handle_, stream));
    Check(cublasSetWorkspace(handle_, workspace_.data(), kWorkspaceBytes));
    handle_stream_ = stream;
  }
  return handle_;
}

void Products::Linear(const CudaLinearWeights& w, const LinearArgs& args) {
  if (args.rows == 0 || w.out_features() == 0) return;
  if (w.half() && !args.keep_normed) {
    const SkinnyArgs skinny = SkinnyOf(w, args);
    if (ServesSkinny(skinny)) {
      device_.Check(SkinnyLinear(skinny, device_.stream()), "a product of few rows");
      return;
    }
  }
  const bool add = args.then == LinearThen::kAdd;
  const bool silu = args.then == LinearThen::kSiluMul;
  float* product = silu ? args.product : static_cast<float*>(args.y);
  {
    absl::MutexLock lock(&mutex_);
    const void* x = Operand(w, args);
    if (x == nullptr) return;
    Multiply(w, x, args.rows, product, add);
  }
  const int64_t width = w.out_features();
  if (args.bias != nullptr) {
    device_.Check(AddBias(product, args.bias, args.rows, width, device_.stream()), "adding a bias");
  }
  if (!silu) return;
  FloatOutputs out;
  if (args.y_dtype == DType::kBFloat16) {
    out.bf16 = args.y;
  } else {
    out.f32 = static_cast<float*>(args.y);
  }
  device_.Check(
      SiluMul(product, product + width / 2, args.rows, width / 2, width, out, device_.stream()),
      "an activation");
}

const void* Products::Operand(const CudaLinearWeights& w, const LinearArgs& args) {
  const int64_t width = w.in_features();
  const auto* x = static_cast<const float*>(args.x);
  if (args.x_dtype == DType::kBFloat16) return args.x;
  void* half = nullptr;
  if (w.half()) {
    half = RoomFor(args.rows * width);
    if (half == nullptr) return nullptr;
  }
  if (args.norm != nullptr) {
    FloatOutputs out;
    out.bf16 = half;
    if (half == nullptr || args.keep_normed) out.f32 = args.normed;
    device_.Check(RmsNorm(x, args.norm, args.rows, width, args.eps, out, device_.stream()),
                  "a norm");
    return half != nullptr ? half : args.normed;
  }
  if (half == nullptr) return x;
  device_.Check(
      Quantize(x, args.rows, width, ElementType::kBFloat16, half, nullptr, device_.stream()),
      "rounding activations");
  return half;
}

void Products::Multiply(const CudaLinearWeights& w, const void* x, int64_t rows, float* y,
                        bool add) {
  const auto m = static_cast<int>(w.out_features());
  const auto n = static_cast<int>(rows);
  const auto k = static_cast<int>(w.in_features());
  const float one = 1.0f;
  const float beta = add ? 1.0f : 0.0f;
  // Column-major to cuBLAS: yᵀ [m, n] = (wᵀ)ᵀ · xᵀ.
  if (w.half()) {
    Check(cublasGemmEx(Handle(), CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, w.data(), CUDA_R_16BF, k,
                       x, CUDA_R_16BF, k, &beta, y, CUDA_R_32F, m, CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT));
  } else {
    Check(cublasSgemm(Handle(), CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one,
                      static_cast<const float*>(w.data()), k, static_cast<const float*>(x), k,
                      &beta, y, m));
  }
}

void* Products::RoomFor(int64_t elements) {
  const size_t bytes = elements * 2;
  if (rounded_.empty() || rounded_.back().size() < bytes) {
    auto larger = device_.AllocateScratch(std::bit_ceil(bytes));
    if (!larger.ok()) return RoomBesides(bytes);
    rounded_.push_back(*std::move(larger));
  }
  return rounded_.back().data();
}

void* Products::RoomBesides(size_t bytes) {
  if (besides_.size() >= bytes && !device_.records()) return besides_.data();
  auto room = device_.AllocateRoom(bytes);
  if (!room.ok() || device_.records()) {
    device_.Check(cudaErrorMemoryAllocation, "rounding activations");
    return nullptr;
  }
  besides_ = *std::move(room);
  return besides_.data();
}

}  // namespace msa::kernels::cuda

// Dense products by cuBLAS.
#ifndef MSA_KERNELS_CUDA_LINEAR_H_
#define MSA_KERNELS_CUDA_LINEAR_H_

#include <cublas_v2.h>

#include <cstdint>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "kernels/cuda/device.h"

namespace msa::kernels::cuda {

// kFloat32: float32. kBFloat16: bfloat16, as are the activations it is multiplied with. kInt8: the
// int8 grid's values rounded to bfloat16; it saves no memory here.
class CudaLinearWeights : public LinearWeights {
 public:
  CudaLinearWeights(Buffer data, bool half, int64_t out_features, int64_t in_features)
      : data_(std::move(data)),
        half_(half),
        out_features_(out_features),
        in_features_(in_features) {}
  int64_t in_features() const override { return in_features_; }
  int64_t out_features() const override { return out_features_; }
  const void* data() const { return data_.data(); }
  bool half() const { return half_; }  // bfloat16, else float32

 private:
  Buffer data_;  // [out_features, in_features]
  bool half_;
  int64_t out_features_;
  int64_t in_features_;
};

// Thread-safe.
class Products {
 public:
  static absl::StatusOr<std::unique_ptr<Products>> Make(Device& device);
  ~Products();

  absl::StatusOr<std::unique_ptr<LinearWeights>> Pack(const float* w, int64_t out_features,
                                                      int64_t in_features, WeightFormat format);
  // Pointers that kernels reach.
  void Linear(const CudaLinearWeights& w, const float* x, int64_t rows, const float* bias,
              float* y);

 private:
  explicit Products(Device& device) : device_(device) {}
  void Check(cublasStatus_t status);

  Device& device_;
  absl::Mutex mutex_;  // a handle belongs to one thread at a time
  cublasHandle_t handle_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_LINEAR_H_

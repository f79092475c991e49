// Dense products by cuBLAS.
#ifndef MSA_KERNELS_CUDA_LINEAR_H_
#define MSA_KERNELS_CUDA_LINEAR_H_

#include <cublas_v2.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

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
  bool rounds_activations() const override { return half_; }

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
  void Linear(const CudaLinearWeights& w, const LinearArgs& args);

  // Whoever starts several products at once (a recording) holds it meanwhile.
  absl::Mutex& mutex() { return mutex_; }

 private:
  explicit Products(Device& device) : device_(device) {}
  void Check(cublasStatus_t status);
  // The handle, for the stream that this thread's work goes to.
  cublasHandle_t Handle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Room for activations in bfloat16. Null, and an unhealthy device, when there is no memory.
  void* RoomFor(int64_t elements) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same where the device has none now; one is kept, no recording has its address.
  void* RoomBesides(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What is multiplied: args.x after the norm, in bfloat16 for half weights; null as RoomFor.
  const void* Operand(const CudaLinearWeights& w, const LinearArgs& args)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Multiply(const CudaLinearWeights& w, const void* x, int64_t rows, float* y, bool add)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Device& device_;
  absl::Mutex mutex_;  // a handle belongs to one thread at a time
  cublasHandle_t handle_ ABSL_GUARDED_BY(mutex_) = nullptr;
  cudaStream_t handle_stream_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Buffer workspace_ ABSL_GUARDED_BY(mutex_);  // of cuBLAS
  // Activations in bfloat16: one product's at a time, which the stream's order keeps apart. Smaller
  // ones stay: recordings may hold their addresses.
  std::vector<Buffer> rounded_ ABSL_GUARDED_BY(mutex_);
  Buffer besides_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_LINEAR_H_

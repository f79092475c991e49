// Linear layers on a CPU. Few rows are bound by the bytes of the weights: own kernels read them
// once, in the precision they are held in. Many rows are bound by arithmetic: the library, on
// panels widened to float32.
#ifndef MSA_KERNELS_CPU_LINEAR_H_
#define MSA_KERNELS_CPU_LINEAR_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/thread_pool.h"
#include "hwy/aligned_allocator.h"
#include "kernels/backend.h"

namespace msa::kernels {

// Rows are padded with zeros to a multiple of kInt8WeightGroup elements.
class CpuLinearWeights : public LinearWeights {
 public:
  CpuLinearWeights(int64_t out_features, int64_t in_features, WeightFormat format);

  int64_t in_features() const override { return in_features_; }
  int64_t out_features() const override { return out_features_; }
  WeightFormat format() const { return format_; }
  // Elements from one row to the next.
  int64_t stride() const { return stride_; }
  int64_t groups() const;  // scales a row, kInt8
  template <typename T>
  const T* row(int64_t out) const {
    return reinterpret_cast<const T*>(bytes_.get()) + out * stride_;
  }
  template <typename T>
  T* mutable_row(int64_t out) {
    return reinterpret_cast<T*>(bytes_.get()) + out * stride_;
  }
  const float* scales(int64_t out) const { return scales_.get() + out * groups(); }
  float* mutable_scales(int64_t out) { return scales_.get() + out * groups(); }
  // False when the allocation failed.
  bool allocated() const;

 private:
  int64_t out_features_;
  int64_t in_features_;
  int64_t stride_;
  WeightFormat format_;
  hwy::AlignedFreeUniquePtr<uint8_t[]> bytes_;
  hwy::AlignedFreeUniquePtr<float[]> scales_;
};

// A product of few rows, as linear.cc hands it to its vector code.
struct FewRows {
  const CpuLinearWeights& w;
  const float* x;  // [rows, w.stride()], zero padded
  int64_t rows;
  const float* bias;  // null or [out_features]
  float* y;           // [rows, out_features]
};

absl::StatusOr<std::unique_ptr<LinearWeights>> CpuPackLinear(const float* w, int64_t out_features,
                                                             int64_t in_features,
                                                             WeightFormat format, ThreadPool& pool);

void CpuLinear(const CpuLinearWeights& w, const float* x, int64_t rows, const float* bias, float* y,
               ThreadPool& pool);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_LINEAR_H_

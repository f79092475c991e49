// Backend::ScoreSegments on the GPU: puts a bank's segments into one launch.
#ifndef MSA_KERNELS_CUDA_SCORE_SEGMENTS_H_
#define MSA_KERNELS_CUDA_SCORE_SEGMENTS_H_

#include <vector>

#include "absl/types/span.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/staging.h"

namespace msa::kernels::cuda {

// Thread-safe.
class SegmentScorer {
 public:
  explicit SegmentScorer(Device& device) : device_(device) {}

  // One ScoreArgs a segment, all with the same shape, questions and precision.
  void Score(absl::Span<const ScoreArgs> segments);

 private:
  void Launch(absl::Span<const ScoreArgs> segments, Staging& staging, float* scores);

  Device& device_;
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_SCORE_SEGMENTS_H_

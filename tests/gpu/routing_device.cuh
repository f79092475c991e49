// Cases of the routing tests on the device: their banks, scores and errors.
#ifndef MSA_TESTS_GPU_ROUTING_DEVICE_CUH_
#define MSA_TESTS_GPU_ROUTING_DEVICE_CUH_

#include <cuda_runtime.h>

#include <vector>

#include "kernels/cuda/routing.h"
#include "kernels/cuda/routing_bound.h"
#include "tests/gpu/gpu_test.h"
#include "tests/gpu/routing_case.cuh"

namespace msa::kernels::cuda {

using ::msa::testing::DeviceBuffer;
using ::msa::testing::Expect;

// What is in device memory, whose guard must be whole.
template <typename T>
std::vector<T> Fetch(const DeviceBuffer<T>& buffer) {
  CUDA_OK(cudaDeviceSynchronize());
  Expect(buffer.GuardIsWhole(), "guard bytes");
  return buffer.ToHost();
}

// A list of segments on the device.
class DeviceBank {
 public:
  DeviceBank(const std::vector<Keys>& segments,
             const std::vector<std::vector<int64_t>>& part_begin) {
    for (size_t i = 0; i < segments.size(); ++i) {
      keys_.emplace_back(segments[i].bytes);
      scales_.emplace_back(segments[i].scales);
      part_begin_.emplace_back(part_begin[i]);
      RoutingSegment segment;
      segment.keys = keys_.back().get();
      segment.scales = segments[i].scales.empty() ? nullptr : scales_.back().get();
      segment.part_begin = part_begin_.back().get();
      segment.num_parts = static_cast<int64_t>(part_begin[i].size()) - 1;
      segment.num_chunks = segments[i].num_chunks;
      segment.first_part = num_parts_;
      max_norms_.emplace_back(std::vector<float>{MaxNorm(segments[i])});
      segment.max_norm = max_norms_.back().get();
      num_parts_ += segment.num_parts;
      segments_.push_back(segment);
    }
    num_chunks_ = NumberChunks(segments_.data(), static_cast<int>(segments_.size()));
    table_.emplace_back(segments_);
  }

  const RoutingSegment* table() { return table_[0].get(); }
  int64_t num_chunks() const { return num_chunks_; }
  int64_t num_parts() const { return num_parts_; }

 private:
  std::vector<DeviceBuffer<char>> keys_;
  std::vector<DeviceBuffer<float>> scales_;
  std::vector<DeviceBuffer<int64_t>> part_begin_;
  std::vector<DeviceBuffer<float>> max_norms_;
  std::vector<RoutingSegment> segments_;
  std::vector<DeviceBuffer<RoutingSegment>> table_;
  int64_t num_chunks_ = 0;
  int64_t num_parts_ = 0;
};

inline RoutingArgs ArgsOf(const Case& c, DeviceBank& bank, DeviceBuffer<float>& queries,
                          DeviceBuffer<float>& scores) {
  RoutingArgs args;
  args.shape = c.shape;
  args.format = c.format;
  args.precision = c.precision;
  args.segments = bank.table();
  args.num_segments = static_cast<int>(c.segments.size());
  args.num_chunks = bank.num_chunks();
  args.num_parts = bank.num_parts();
  args.queries = queries.get();
  args.host_query_begin = c.query_begin.data();
  args.num_questions = c.num_questions();
  args.scores = scores.get();
  return args;
}

inline std::vector<float> Score(const Case& c, bool general = false) {
  DeviceBank bank(c.segments, c.part_begin);
  DeviceBuffer<float> queries(c.queries);
  DeviceBuffer<float> scores(c.num_questions() * c.num_parts());
  const RoutingArgs args = ArgsOf(c, bank, queries, scores);
  DeviceBuffer<char> workspace(RoutingWorkspaceBytes(args));
  CUDA_OK(general ? ScorePartsGeneral(args, nullptr) : ScoreParts(args, workspace.get(), nullptr));
  Fetch(workspace);
  return Fetch(scores);
}

// What ScoreErrors says of each question.
inline std::vector<float> Errors(const Case& c) {
  DeviceBank bank(c.segments, c.part_begin);
  DeviceBuffer<float> queries(c.queries);
  DeviceBuffer<float> scores(size_t{0});
  DeviceBuffer<float> errors(c.num_questions());
  CUDA_OK(ScoreErrors(ArgsOf(c, bank, queries, scores), errors.get(), nullptr));
  return Fetch(errors);
}

}  // namespace msa::kernels::cuda

#endif  // MSA_TESTS_GPU_ROUTING_DEVICE_CUH_

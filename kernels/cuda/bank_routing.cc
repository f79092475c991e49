#include "kernels/cuda/bank_routing.h"

#include <algorithm>

#include "common/check.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/staging.h"
#include "kernels/cuda/topk.h"

namespace msa::kernels::cuda {
namespace {

KeyFormat FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return KeyFormat::kBFloat16;
    case DType::kInt8:
      return KeyFormat::kInt8;
    default:
      MSA_CHECK(dtype == DType::kFloat32);
      return KeyFormat::kFloat32;
  }
}

RoutingSegment Staged(const KeySegment& segment, int64_t key_width, Staging& staging) {
  RoutingSegment staged;
  staged.num_parts = segment.num_parts();
  staged.num_chunks = segment.num_chunks >= 0 ? segment.num_chunks : segment.part_begin.back();
  staged.keys =
      staging.InBytes(segment.keys, staged.num_chunks * key_width * DTypeBytes(segment.dtype));
  if (segment.dtype == DType::kInt8) {
    staged.scales = staging.In(segment.scales, staged.num_chunks);
  }
  staged.part_begin = staging.In(segment.part_begin.data(), segment.part_begin.size());
  return staged;
}

}  // namespace

void ScoreBankOn(Device& device, const ScoreBankArgs& bank) {
  Staging staging(device);
  std::vector<RoutingSegment> table;
  int64_t num_parts = 0;
  for (const KeySegment& segment : bank.segments) {
    if (segment.num_parts() == 0) continue;
    table.push_back(Staged(segment, bank.shape.key_width(), staging));
    table.back().first_part = num_parts;
    num_parts += table.back().num_parts;
  }
  if (num_parts == 0) return;
  RoutingArgs args;
  args.shape = bank.shape;
  args.format = FormatOf(bank.segments.front().dtype);
  args.num_segments = static_cast<int>(table.size());
  args.num_chunks = NumberChunks(table.data(), args.num_segments);
  args.num_parts = num_parts;
  args.segments = staging.In(table.data(), table.size());
  args.queries = staging.In(bank.queries, bank.query_begin.back() * bank.shape.query_width());
  args.host_query_begin = bank.query_begin.data();
  args.num_questions = static_cast<int>(bank.query_begin.size()) - 1;
  args.scores = staging.Out(bank.scores, args.num_questions * num_parts);
  void* workspace = staging.Room(RoutingWorkspaceBytes(args));
  if (staging.failed()) return;
  device.Check(ScoreParts(args, workspace, device.stream()), "a routing pass");
}

void TopIndicesOn(Device& device, const float* scores, int64_t n, int k, void* out) {
  Staging staging(device);
  // Scores, then indices: one copy brings both.
  float* best_scores = staging.Out(static_cast<float*>(out), 2 * k);
  if (staging.failed()) return;
  if (n == 0) {  // every byte set: indices of -1
    device.Check(cudaMemsetAsync(best_scores, 0xff, TopIndicesBytes(k), device.stream()),
                 "clearing a list of best parts");
    return;
  }
  TopKArgs args;
  args.scores = staging.In(scores, n);
  args.num_questions = 1;
  args.num_candidates = n;
  args.stride = n;
  args.k = k;
  args.best_scores = best_scores;
  args.best_indices = reinterpret_cast<int32_t*>(best_scores + k);
  args.best_references = static_cast<int64_t*>(staging.Room(k * sizeof(int64_t)));
  void* workspace = staging.Room(TopKWorkspaceBytes(1, n, k));
  if (staging.failed()) return;
  device.Check(SelectTopK(args, workspace, device.stream()), "selecting the best parts");
}

}  // namespace msa::kernels::cuda

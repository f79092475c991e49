#include <algorithm>

#include "kernels/cuda/coarse.h"
#include "kernels/cuda/routing_listed.h"

namespace msa::kernels::cuda {
namespace {

constexpr size_t kAlignment = 256;

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

RoutingArgs CoarseScan(const CoarseArgs& args) {
  RoutingArgs coarse = args.scan;
  coarse.segments = args.codes;
  coarse.format = KeyFormat::kInt4;
  coarse.precision = QueryPrecision::kSingle;
  return coarse;
}

// Places in the workspace.
struct CoarseMemory {
  explicit CoarseMemory(const CoarseArgs& args) {
    const RoutingArgs coarse = CoarseScan(args);
    const size_t candidates =
        static_cast<size_t>(args.scan.num_questions) * static_cast<size_t>(args.num_candidates);
    const size_t scan_bytes = RoutingWorkspaceBytes(coarse);
    const auto take = [&](size_t bytes) {
      const size_t at = total;
      total += Aligned(bytes);
      return at;
    };
    scan = take(scan_bytes);
    listed = take(ListedWorkspaceBytes(args.scan));
    top_k = take(std::max(
        TopKWorkspaceBytes(args.scan.num_questions, args.scan.num_parts, args.num_candidates),
        TopKWorkspaceBytes(args.scan.num_questions, args.num_candidates, args.k)));
    scores = take(candidates * sizeof(float));
    exact = take(candidates * sizeof(float));
    references = take(candidates * sizeof(int64_t));
    columns = take(candidates * sizeof(int32_t));
  }

  size_t scan = 0;
  size_t listed = 0;
  size_t top_k = 0;
  size_t scores = 0;
  size_t exact = 0;
  size_t references = 0;
  size_t columns = 0;
  size_t total = 0;
};

bool ValidArgs(const CoarseArgs& args) {
  return CanScoreListed(args.scan) && HasFastPath(CoarseScan(args)) &&
         args.scan.num_questions > 0 && args.k >= 1 && args.k <= args.num_candidates &&
         args.num_candidates <= kMaxTopK;
}

}  // namespace

size_t CoarseWorkspaceBytes(const CoarseArgs& args) {
  return ValidArgs(args) ? CoarseMemory(args).total : kAlignment;
}

cudaError_t SelectTopKCoarse(const CoarseArgs& args, void* workspace, cudaStream_t stream) {
  if (!ValidArgs(args)) return cudaErrorInvalidValue;
  char* memory = static_cast<char*>(workspace);
  const CoarseMemory at(args);
  cudaError_t error = ScoreParts(CoarseScan(args), memory + at.scan, stream);

  TopKArgs best;
  best.scores = args.scan.scores;
  best.references = args.references;
  best.visible = args.visible;
  best.num_questions = args.scan.num_questions;
  best.num_candidates = args.scan.num_parts;
  best.stride = args.scan.num_parts;
  best.k = args.num_candidates;
  best.sorted = false;
  best.best_scores = reinterpret_cast<float*>(memory + at.scores);
  best.best_references = reinterpret_cast<int64_t*>(memory + at.references);
  best.best_indices = reinterpret_cast<int32_t*>(memory + at.columns);
  if (error == cudaSuccess) error = SelectTopK(best, memory + at.top_k, stream);
  ListedArgs listed;
  listed.scan = args.scan;
  listed.columns = best.best_indices;
  listed.num_listed = args.num_candidates;
  listed.scores = reinterpret_cast<float*>(memory + at.exact);
  if (error == cudaSuccess) error = ScoreListed(listed, memory + at.listed, stream);

  TopKArgs final = best;
  final.scores = reinterpret_cast<float*>(memory + at.exact);
  final.references = best.best_references;
  final.indices = best.best_indices;
  final.reference_stride = args.num_candidates;
  final.visible = nullptr;
  final.num_candidates = args.num_candidates;
  final.stride = args.num_candidates;
  final.k = args.k;
  final.sorted = true;
  final.best_scores = args.best_scores;
  final.best_references = args.best_references;
  final.best_indices = args.best_indices;
  final.best_counts = args.best_counts;
  if (error == cudaSuccess) error = SelectTopK(final, memory + at.top_k, stream);
  return error;
}

}  // namespace msa::kernels::cuda

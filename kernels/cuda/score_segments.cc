#include "kernels/cuda/score_segments.h"

#include "common/check.h"
#include "kernels/cuda/routing.h"

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

void SegmentScorer::Launch(absl::Span<const ScoreArgs> segments, Staging& staging, float* scores) {
  const ScoreArgs& first = segments.front();
  std::vector<RoutingSegment> table;
  int64_t num_parts = 0;
  for (const ScoreArgs& args : segments) {
    table.push_back(Staged(args.segment, first.shape.key_width(), staging));
    table.back().first_part = num_parts;
    num_parts += table.back().num_parts;
  }
  RoutingArgs args;
  args.shape = first.shape;
  args.format = FormatOf(first.segment.dtype);
  args.num_segments = static_cast<int>(table.size());
  args.num_chunks = NumberChunks(table.data(), args.num_segments);
  args.num_parts = num_parts;
  args.segments = staging.In(table.data(), table.size());
  args.queries = staging.In(first.queries, first.query_begin.back() * first.shape.query_width());
  args.host_query_begin = first.query_begin.data();
  args.num_questions = static_cast<int>(first.query_begin.size()) - 1;
  args.scores = scores;
  void* workspace = staging.Room(RoutingWorkspaceBytes(args));
  if (staging.failed()) return;
  device_.Check(ScoreParts(args, workspace, device_.stream()), "a routing pass");
}

void SegmentScorer::Score(absl::Span<const ScoreArgs> segments) {
  int64_t num_parts = 0;
  for (const ScoreArgs& args : segments) num_parts += args.segment.num_parts();
  if (num_parts == 0) return;
  const auto num_questions = static_cast<int64_t>(segments.front().query_begin.size()) - 1;
  Staging staging(device_);
  auto* scores = static_cast<float*>(staging.Room(num_questions * num_parts * sizeof(float)));
  if (staging.failed()) return;
  Launch(segments, staging, scores);
  // [questions, all parts] to [questions, parts of the segment], a segment after the other.
  int64_t first_part = 0;
  for (const ScoreArgs& args : segments) {
    const int64_t parts = args.segment.num_parts();
    if (parts == 0) continue;
    device_.Check(cudaMemcpy2DAsync(args.scores, parts * sizeof(float), scores + first_part,
                                    num_parts * sizeof(float), parts * sizeof(float), num_questions,
                                    cudaMemcpyDefault, device_.stream()),
                  "fetching scores");
    first_part += parts;
  }
  device_.Wait();
}

}  // namespace msa::kernels::cuda

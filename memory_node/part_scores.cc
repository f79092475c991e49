#include "memory_node/part_scores.h"

#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace msa::memory_node {

int64_t NumParts(const IndexView& view) {
  int64_t parts = 0;
  for (const SegmentView& segment : view) parts += segment.num_parts;
  return parts;
}

std::vector<kernels::KeySegment> KeysOf(const IndexView& view, int layer_index) {
  std::vector<kernels::KeySegment> keys;
  for (const SegmentView& segment : view) {
    keys.push_back(segment.segment->Keys(layer_index, segment.num_parts));
    if (segment.codes != nullptr) segment.codes->AddTo(layer_index, &keys.back());
  }
  return keys;
}

std::vector<kernels::ListedPart> ListBest(const kernels::Backend& backend, int k,
                                          PartScores* scores) {
  MSA_CHECK(scores->queries != nullptr);
  const auto segments = KeysOf(scores->view, scores->layer_index);
  kernels::ListBestArgs args;
  args.shape = scores->shape;
  args.segments = segments;
  args.queries = scores->queries;
  args.num_rows = scores->num_rows;
  args.scores = scores->scores.data();
  args.error = scores->pass_error;
  args.k = k;
  auto best = backend.ListBest(args);
  if (scores->pass_error != nullptr) scores->error = best.error;
  scores->pass_error = nullptr;
  return std::move(best.parts);
}

void TakeError(const kernels::Backend& backend, PartScores* scores) {
  if (scores->pass_error == nullptr) return;
  backend.Copy(&scores->error, scores->pass_error, sizeof(float));
  scores->pass_error = nullptr;
}

std::vector<float> ToHost(const kernels::Backend& backend, const PartScores& scores) {
  std::vector<float> host(scores.scores.size());
  backend.Copy(host.data(), scores.scores.data(), host.size() * sizeof(float));
  return host;
}

void ScoreColumns(const kernels::Backend& backend, const PartScores& scores,
                  absl::Span<const int32_t> columns, float* out) {
  MSA_CHECK(scores.queries != nullptr);
  const auto segments = KeysOf(scores.view, scores.layer_index);
  kernels::ScoreListedArgs args;
  args.shape = scores.shape;
  args.segments = segments;
  args.queries = scores.queries;
  args.num_rows = scores.num_rows;
  args.parts = columns;
  args.scores = out;
  backend.ScoreListed(args);
}

absl::StatusOr<PartScores> MakeExact(const kernels::Backend& backend, const PartScores& scores) {
  if (scores.error == 0) return scores;
  MSA_CHECK(scores.queries != nullptr);
  const size_t num_parts = scores.scores.size();
  MSA_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(num_parts * sizeof(float)));
  const auto segments = KeysOf(scores.view, scores.layer_index);
  const int32_t query_begin[] = {0, scores.num_rows};
  kernels::ScoreBankArgs args;
  args.shape = scores.shape;
  args.segments = segments;
  args.queries = scores.queries;
  args.query_begin = query_begin;
  args.scores = buffer.as<float>();
  backend.ScoreBank(args);
  MSA_RETURN_IF_ERROR(backend.StatusOf(args.scores));
  PartScores exact = scores;
  exact.scores = {args.scores, num_parts};
  exact.error = 0;
  exact.pass_error = nullptr;
  exact.loose = false;
  exact.candidates = 0;
  exact.queries = nullptr;
  exact.memory = std::make_shared<const kernels::Buffer>(std::move(buffer));
  return exact;
}

}  // namespace msa::memory_node

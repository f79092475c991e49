#include "kernels/cuda/bank_routing.h"

#include <algorithm>

#include "common/check.h"
#include "kernels/coarse_codes.h"
#include "kernels/cuda/coarse.h"
#include "kernels/cuda/mean_scores.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/routing_bound.h"
#include "kernels/cuda/routing_listed.h"
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
    case DType::kFloat8:
      return KeyFormat::kFloat8;
    default:
      MSA_CHECK(dtype == DType::kFloat32);
      return KeyFormat::kFloat32;
  }
}

RoutingSegment Staged(const KeySegment& segment, int64_t key_width, bool coarse, Staging& staging) {
  RoutingSegment staged;
  staged.num_parts = segment.num_parts();
  staged.num_chunks = segment.chunks();
  if (coarse) {
    staged.keys = staging.InBytesKept(segment.codes, staged.num_chunks * CodeBytes(key_width));
    staged.scales = staging.InKept(segment.code_scales, staged.num_chunks);
  } else {
    staged.keys = staging.InBytesKept(segment.keys,
                                      staged.num_chunks * key_width * DTypeBytes(segment.dtype));
    if (HasScales(segment.dtype)) {
      staged.scales = staging.InKept(segment.scales, staged.num_chunks);
    }
  }
  staged.part_begin = staging.InKept(segment.part_begin.data(), segment.part_begin.size());
  staged.max_norm = staging.InKept(segment.max_norm, 1);
  return staged;
}

// A scan of all segments, exact or of their codes; without scores. `table` is what its segments
// point to.
RoutingArgs ScanOf(const RoutingShape& shape, absl::Span<const KeySegment> segments, bool coarse,
                   Staging& staging, std::vector<RoutingSegment>& table) {
  MSA_CHECK(!coarse || CanHaveCodes(shape));
  RoutingArgs args;
  args.shape = shape;
  for (const KeySegment& segment : segments) {
    if (segment.num_parts() == 0) continue;
    table.push_back(Staged(segment, shape.key_width(), coarse, staging));
    table.back().first_part = args.num_parts;
    args.num_parts += table.back().num_parts;
  }
  if (args.num_parts == 0) return args;
  args.format = coarse ? KeyFormat::kInt4 : FormatOf(segments.front().dtype);
  if (coarse) args.precision = QueryPrecision::kSingle;
  args.num_segments = static_cast<int>(table.size());
  args.num_chunks = NumberChunks(table.data(), args.num_segments);
  args.segments = staging.InTable(table);
  return args;
}

// Columns that one exact pass takes.
constexpr int kExactTiles = 4;
// From so many chunks on, what a faster pass gains is more than what finding the exact scores of
// the best costs.
constexpr int64_t kManyChunks = 1 << 19;

// Column tiles from which on two pieces of int8 questions are bound by their products.
constexpr int64_t kTwoPieceTiles = 8;

// The pass that a question of so many column tiles takes when it is rounded. The memory-bound one
// is the faster over fp8 keys up to 32 rows, and over few bf16 keys, as far as it was measured, up
// to 64.
QueryPrecision Rounded(KeyFormat format, int64_t tiles, bool many_chunks, bool loose) {
  if (format == KeyFormat::kInt8 && loose && tiles > kTwoPieceTiles) {
    return QueryPrecision::kOnePiece;
  }
  const bool memory_bound = format == KeyFormat::kBFloat16
                                ? tiles <= 2 * kExactTiles && !many_chunks
                                : format == KeyFormat::kFloat8 && tiles <= kExactTiles;
  return memory_bound ? QueryPrecision::kSingle : QueryPrecision::kThroughput;
}

// Rounds the questions where that saves reads of the keys, or products that take longer (exact ones
// of fp8 keys and more than one tile), and the error can be bounded.
void ChoosePrecision(const std::vector<RoutingSegment>& table, bool loose, RoutingArgs& args) {
  const int64_t tiles = NumColumnTiles(args);
  const bool many_chunks = args.num_chunks >= kManyChunks;
  const bool slow = args.format == KeyFormat::kFloat8 && many_chunks;
  if (tiles <= (slow ? 1 : kExactTiles)) return;
  for (const RoutingSegment& segment : table) {
    if (segment.max_norm == nullptr) return;
  }
  RoutingArgs rounded = args;
  rounded.precision = Rounded(args.format, tiles, many_chunks, loose);
  if (CanBoundErrors(rounded)) args.precision = rounded.precision;
}

bool Rounds(const RoutingArgs& args, ScanMode mode) {
  return MayRound(mode) && args.precision != QueryPrecision::kSplit;
}

// What the errors of a scan say: its bounds where it rounded, 0 where it is exact, NaN where
// nothing is known.
void WriteErrors(Device& device, const RoutingArgs& args, ScanMode mode, float* errors) {
  if (errors == nullptr) return;
  if (Rounds(args, mode)) {
    device.Check(ScoreErrors(args, errors, device.stream()), "bounding scores");
    return;
  }
  const int fill = mode == ScanMode::kCoarse ? 0xff : 0;
  device.Check(cudaMemsetAsync(errors, fill, args.num_questions * sizeof(float), device.stream()),
               "filling errors");
}

}  // namespace

bool ScoreBankOn(Device& device, const ScoreBankArgs& bank) {
  Staging staging(device);
  const auto num_questions = static_cast<int64_t>(bank.query_begin.size()) - 1;
  std::vector<RoutingSegment> table;
  RoutingArgs args =
      ScanOf(bank.shape, bank.segments, bank.mode == ScanMode::kCoarse, staging, table);
  float* errors = staging.Out(bank.errors, num_questions);
  args.queries = staging.In(bank.queries, bank.query_begin.back() * bank.shape.query_width());
  args.host_query_begin = bank.query_begin.data();
  args.num_questions = static_cast<int>(num_questions);
  args.scores = staging.Out(bank.scores, num_questions * args.num_parts);
  if (args.num_parts > 0 && MayRound(bank.mode)) {
    ChoosePrecision(table, bank.mode == ScanMode::kLoose, args);
  }
  void* workspace = args.num_parts > 0 ? staging.Room(RoutingWorkspaceBytes(args)) : nullptr;
  const bool inexact = bank.mode == ScanMode::kCoarse || Rounds(args, bank.mode);
  if (staging.failed()) return inexact;
  WriteErrors(device, args, bank.mode, errors);
  if (args.num_parts > 0) {
    device.Check(ScoreParts(args, workspace, device.stream()), "a routing pass");
  }
  return inexact;
}

namespace {

// Exact scores of one question's parts, still without them; `query_begin` is [2], for as long as
// the result.
ListedArgs ListedOf(const RoutingShape& shape, absl::Span<const KeySegment> segments,
                    const int32_t* query_begin, Staging& staging,
                    std::vector<RoutingSegment>& table) {
  ListedArgs args;
  args.scan = ScanOf(shape, segments, /*coarse=*/false, staging, table);
  args.scan.host_query_begin = query_begin;
  args.scan.num_questions = 1;
  return args;
}

}  // namespace

bool ScoreListedOn(Device& device, const ScoreListedArgs& listed) {
  if (listed.parts.empty()) return true;
  Staging staging(device);
  std::vector<RoutingSegment> table;
  const int32_t query_begin[] = {0, listed.num_rows};
  ListedArgs args = ListedOf(listed.shape, listed.segments, query_begin, staging, table);
  if (!CanScoreListed(args.scan)) return false;
  args.scan.queries = staging.In(listed.queries, listed.num_rows * listed.shape.query_width());
  args.columns = staging.In(listed.parts.data(), listed.parts.size());
  args.num_listed = static_cast<int>(listed.parts.size());
  args.scores = staging.Out(listed.scores, args.num_listed);
  void* workspace = staging.Room(ListedWorkspaceBytes(args.scan));
  if (staging.failed()) return true;
  device.Check(ScoreListed(args, workspace, device.stream()), "scoring listed parts");
  return true;
}

namespace {

// A segment's keys from `first_chunk` on.
struct StagedKeys {
  StagedKeys(const KeySegment& segment, int64_t key_width, int64_t first_chunk, Staging& staging)
      : num_chunks(segment.chunks() - first_chunk), format(FormatOf(segment.dtype)) {
    if (num_chunks <= 0) return;
    const size_t key_bytes = key_width * DTypeBytes(segment.dtype);
    keys = staging.InBytes(static_cast<const char*>(segment.keys) + first_chunk * key_bytes,
                           num_chunks * key_bytes);
    if (HasScales(segment.dtype)) scales = staging.In(segment.scales + first_chunk, num_chunks);
  }

  int64_t num_chunks;
  KeyFormat format;
  const void* keys = nullptr;
  const float* scales = nullptr;
};

}  // namespace

void RaiseMaxNormOn(Device& device, const KeySegment& segment, int64_t key_width,
                    int64_t first_chunk, float* max_norm) {
  Staging staging(device);
  const StagedKeys from(segment, key_width, first_chunk, staging);
  if (from.num_chunks <= 0) return;
  float* norm = staging.InOut(max_norm, 1);
  if (staging.failed()) return;
  device.Check(RaiseMaxNorm(from.keys, from.format, from.scales, from.num_chunks,
                            static_cast<int>(key_width), norm, device.stream()),
               "taking keys' norms");
}

void EncodeCoarseOn(Device& device, const KeySegment& segment, int64_t key_width,
                    int64_t first_chunk, uint8_t* codes, float* scales) {
  Staging staging(device);
  const StagedKeys from(segment, key_width, first_chunk, staging);
  if (from.num_chunks <= 0) return;
  uint8_t* to = staging.Out(codes + first_chunk * CodeBytes(key_width),
                            from.num_chunks * CodeBytes(key_width));
  float* to_scales = staging.Out(scales + first_chunk, from.num_chunks);
  if (staging.failed()) return;
  device.Check(EncodeCoarse(from.keys, from.format, from.scales, from.num_chunks,
                            static_cast<int>(key_width), to, to_scales, device.stream()),
               "making codes of keys");
}

void MeanOfScoresOn(Device& device, absl::Span<const float* const> scores, int64_t n, float* mean) {
  Staging staging(device);
  std::vector<const float*> layers;
  for (const float* layer : scores) layers.push_back(staging.In(layer, n));
  const float* const* table = staging.In(layers.data(), layers.size());
  float* out = staging.Out(mean, n);
  if (staging.failed()) return;
  device.Check(MeanOfScores(table, static_cast<int>(layers.size()), n, out, device.stream()),
               "averaging scores");
}

namespace {

// The best k of scores [n] on the device: into best_scores [k] and best_indices [k].
void SelectIndices(Device& device, Staging& staging, const float* scores, int64_t n, int k,
                   float* best_scores, int32_t* best_indices) {
  TopKArgs args;
  args.scores = scores;
  args.num_questions = 1;
  args.num_candidates = n;
  args.stride = n;
  args.k = k;
  args.best_scores = best_scores;
  args.best_indices = best_indices;
  args.best_references = static_cast<int64_t*>(staging.Room(k * sizeof(int64_t)));
  void* workspace = staging.Room(TopKWorkspaceBytes(1, n, k));
  if (staging.failed()) return;
  device.Check(SelectTopK(args, workspace, device.stream()), "selecting the best parts");
}

}  // namespace

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
  const float* from = staging.In(scores, n);
  if (staging.failed()) return;
  SelectIndices(device, staging, from, n, k, best_scores,
                reinterpret_cast<int32_t*>(best_scores + k));
}

bool ListBestOn(Device& device, const ListBestArgs& listed, void* out) {
  Staging staging(device);
  std::vector<RoutingSegment> table;
  const int32_t query_begin[] = {0, listed.num_rows};
  ListedArgs args = ListedOf(listed.shape, listed.segments, query_begin, staging, table);
  if (args.scan.num_parts == 0 || !CanScoreListed(args.scan)) return false;
  // Scores, exact scores, indices, the error: one copy brings all.
  const int k = listed.k;
  float* best = staging.Out(static_cast<float*>(out), 3 * k + 1);
  const float* scores = staging.In(listed.scores, args.scan.num_parts);
  const float* error = staging.In(listed.error, 1);
  args.scan.queries = staging.In(listed.queries, listed.num_rows * listed.shape.query_width());
  void* workspace = staging.Room(ListedWorkspaceBytes(args.scan));
  if (staging.failed()) return true;
  auto* indices = reinterpret_cast<int32_t*>(best + 2 * k);
  SelectIndices(device, staging, scores, args.scan.num_parts, k, best, indices);
  if (staging.failed()) return true;
  args.columns = indices;
  args.num_listed = k;
  args.scores = best + k;
  args.early = true;  // beside the last of the kernels that select
  args.error = error;
  args.error_to = best + 3 * k;
  device.Check(ScoreListed(args, workspace, device.stream()), "scoring listed parts");
  return true;
}

}  // namespace msa::kernels::cuda

#include "kernels/backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "common/check.h"
#include "common/strings.h"
#include "kernels/coarse_codes.h"

namespace msa::kernels {
namespace {

constexpr size_t kCacheLineBytes = 64;
constexpr size_t kHugePageBytes = 2 << 20;

}  // namespace

Buffer AllocateHost(size_t bytes) {
  const size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : kCacheLineBytes;
  const size_t rounded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, rounded);
  if (data != nullptr && alignment == kHugePageBytes) madvise(data, rounded, MADV_HUGEPAGE);
  return Buffer(data, bytes, [](void* memory) { std::free(memory); });
}

absl::StatusOr<Buffer> Backend::Allocate(size_t bytes, Purpose) const {
  Buffer buffer = AllocateHost(bytes);
  if (buffer.data() == nullptr) {
    return absl::ResourceExhaustedError(StrCat("no memory for ", bytes, " bytes"));
  }
  return buffer;
}

void Backend::Copy(void* to, const void* from, size_t bytes) const {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void Backend::CopyColumns(const float* x, int64_t rows, int64_t stride, int64_t begin,
                          int64_t width, float* out) const {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(out + r * width, x + r * stride + begin, width * sizeof(float));
  }
}

void Backend::AppendRows(const float* k, const float* v, int64_t width,
                         absl::Span<const AppendArgs> targets) const {
  for (const AppendArgs& target : targets) {
    const int64_t first = target.first_row * width;
    for (const auto& [from, to] :
         {std::pair(k + first, target.k), std::pair(v + first, target.v)}) {
      if (target.dtype == DType::kFloat32) {
        Copy(to, from, target.rows * width * sizeof(float));
      } else {
        Quantize(from, target.rows, width, target.dtype, to, nullptr);
      }
    }
  }
}

void Backend::GatherRows(const float* x, int64_t width, absl::Span<const int32_t> rows,
                         float* out) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(out + i * width, x + rows[i] * width, width * sizeof(float));
  }
}

void Backend::Embed(const void* table, DType dtype, int64_t width, absl::Span<const int32_t> ids,
                    float* out) const {
  const size_t row_bytes = width * DTypeBytes(dtype);
  for (size_t i = 0; i < ids.size(); ++i) {
    Dequantize(static_cast<const char*>(table) + ids[i] * row_bytes, nullptr, 1, width, dtype,
               out + i * width);
  }
}

void Backend::ArgMax(const float* x, int64_t rows, int64_t width, int32_t* indices) const {
  for (int64_t r = 0; r < rows; ++r, x += width) {
    indices[r] = static_cast<int32_t>(std::max_element(x, x + width) - x);
  }
}

void Backend::PoolPacked(const PoolPackedArgs& a) const {
  const int64_t width = int64_t{a.num_heads} * a.head_dim;
  const auto num_chunks = static_cast<int64_t>(a.chunk_begin.size()) - 1;
  std::vector<float> pooled(num_chunks * width);
  for (int64_t c = 0; c < num_chunks; ++c) {
    const int64_t tokens = a.chunk_begin[c + 1] - a.chunk_begin[c];
    PoolChunks(a.x + a.chunk_begin[c] * width, tokens, width, tokens, pooled.data() + c * width);
  }
  if (a.normalize) L2Normalize(pooled.data(), num_chunks * a.num_heads, a.head_dim);
  const int64_t rows = a.scale_per_head ? num_chunks * a.num_heads : num_chunks;
  if (rows > 0) Quantize(pooled.data(), rows, num_chunks * width / rows, a.dtype, a.out, a.scales);
}

void Backend::FusedLinear(const LinearWeights& w, const LinearArgs& a) const {
  MSA_CHECK(a.x_dtype == DType::kFloat32 && a.y_dtype == DType::kFloat32);
  const auto* x = static_cast<const float*>(a.x);
  auto* y = static_cast<float*>(a.y);
  const int64_t out = w.out_features();
  if (a.norm != nullptr) {
    RmsNorm(x, a.norm, a.rows, w.in_features(), a.eps, a.normed);
    x = a.normed;
  }
  switch (a.then) {
    case LinearThen::kStore:
      return Linear(w, x, a.rows, a.bias, y);
    case LinearThen::kAdd:
      Linear(w, x, a.rows, a.bias, a.product);
      return Add(y, a.product, a.rows * out);
    case LinearThen::kSiluMul:
      Linear(w, x, a.rows, a.bias, a.product);
      return SiluMul(a.product, a.rows, out / 2, y);
  }
}

namespace {

class PlainRecording : public Recording {
 public:
  explicit PlainRecording(std::function<void()> operations) : operations_(std::move(operations)) {}
  void Run() override { operations_(); }

 private:
  std::function<void()> operations_;
};

// Calls take(chunk, key in float32) for the keys of a segment from `first_chunk` on.
template <typename Take>
void ForEachKey(const Backend& backend, const KeySegment& segment, int64_t key_width,
                int64_t first_chunk, const Take& take) {
  const size_t key_bytes = key_width * DTypeBytes(segment.dtype);
  std::vector<float> key(key_width);
  for (int64_t chunk = first_chunk; chunk < segment.chunks(); ++chunk) {
    backend.Dequantize(static_cast<const char*>(segment.keys) + chunk * key_bytes,
                       HasScales(segment.dtype) ? segment.scales + chunk : nullptr, 1, key_width,
                       segment.dtype, key.data());
    take(chunk, key);
  }
}

}  // namespace

std::unique_ptr<Recording> Backend::Record(std::function<void()> operations) const {
  return std::make_unique<PlainRecording>(std::move(operations));
}

void Backend::SplitQkv(const SplitQkvArgs& a) const {
  const int64_t q_width = int64_t{a.num_q_heads} * a.head_dim;
  const int64_t kv_width = int64_t{a.num_kv_heads} * a.head_dim;
  const int64_t stride = q_width + 2 * kv_width;
  CopyColumns(a.qkv, a.rows, stride, 0, q_width, a.q);
  CopyColumns(a.qkv, a.rows, stride, q_width, kv_width, a.k);
  CopyColumns(a.qkv, a.rows, stride, q_width + kv_width, kv_width, a.v);
  if (a.q_norm != nullptr) {
    RmsNorm(a.q, a.q_norm, a.rows * a.num_q_heads, a.head_dim, a.eps, a.q);
    RmsNorm(a.k, a.k_norm, a.rows * a.num_kv_heads, a.head_dim, a.eps, a.k);
  }
  Rope(a.q, a.positions, a.num_q_heads, a.head_dim, a.inv_freq, 1.0f);
  Rope(a.k, a.positions, a.num_kv_heads, a.head_dim, a.inv_freq, 1.0f);
}

bool Backend::ScoreBank(const ScoreBankArgs& args) const {
  if (args.mode == ScanMode::kCoarse) {
    ScoreCodes(*this, args);
    return true;
  }
  const auto num_questions = static_cast<int64_t>(args.query_begin.size()) - 1;
  int64_t num_parts = 0;
  for (const KeySegment& segment : args.segments) num_parts += segment.num_parts();
  std::vector<float> of_segment;  // [questions, parts of a segment]
  int64_t first_part = 0;
  for (const KeySegment& segment : args.segments) {
    const int64_t parts = segment.num_parts();
    const bool in_place = num_questions == 1;
    if (!in_place) of_segment.resize(num_questions * parts);
    float* scores = in_place ? args.scores + first_part : of_segment.data();
    ScoreParts({args.shape, segment, args.queries, args.query_begin, scores});
    for (int64_t q = 0; q < num_questions && !in_place; ++q) {
      std::copy_n(scores + q * parts, parts, args.scores + q * num_parts + first_part);
    }
    first_part += parts;
  }
  if (args.errors != nullptr) std::fill_n(args.errors, num_questions, 0.0f);
  return false;
}

void Backend::ScoreListed(const ScoreListedArgs& args) const {
  const int32_t query_begin[] = {0, args.num_rows};
  for (size_t i = 0; i < args.parts.size(); ++i) {
    int64_t part = args.parts[i];
    auto segment = args.segments.begin();
    for (; part >= segment->num_parts(); ++segment) part -= segment->num_parts();
    KeySegment one = *segment;
    one.part_begin = segment->part_begin.subspan(part, 2);
    ScoreParts({args.shape, one, args.queries, query_begin, args.scores + i});
  }
}

void Backend::RaiseMaxNorm(const KeySegment& segment, int64_t key_width, int64_t first_chunk,
                           float* max_norm) const {
  ForEachKey(*this, segment, key_width, first_chunk, [&](int64_t, const std::vector<float>& key) {
    double squares = 0;
    for (const float x : key) squares += double{x} * x;
    const auto norm = std::nextafter(static_cast<float>(std::sqrt(squares)), INFINITY);
    if (!std::isnan(*max_norm) && !(norm <= *max_norm)) *max_norm = norm;
  });
}

void Backend::EncodeCoarse(const KeySegment& segment, int64_t key_width, int64_t first_chunk,
                           uint8_t* codes, float* scales) const {
  ForEachKey(
      *this, segment, key_width, first_chunk, [&](int64_t chunk, const std::vector<float>& key) {
        EncodeKey(key.data(), key_width, codes + chunk * CodeBytes(key_width), scales + chunk);
      });
}

void Backend::MeanOfScores(absl::Span<const float* const> scores, int64_t n, float* mean) const {
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (const float* layer : scores) sum += layer[i];
    mean[i] = static_cast<float>(sum / static_cast<double>(scores.size()));
  }
}

std::vector<Backend::IndexedScore> Backend::TopIndices(const float* scores, int64_t n,
                                                       int k) const {
  std::vector<int64_t> indices(n);
  std::iota(indices.begin(), indices.end(), 0);
  std::vector<IndexedScore> best;
  for (const ScoredPart& part : SelectTopK({scores, static_cast<size_t>(n)}, indices, nullptr, k)) {
    best.push_back({part.score, part.reference});
  }
  return best;
}

void Backend::TopIndicesInto(const float* scores, int64_t n, int k, void* out) const {
  std::vector<float> best_scores(k, kNoScore);
  std::vector<int32_t> best_indices(k, -1);
  const auto best = n == 0 ? std::vector<IndexedScore>() : TopIndices(scores, n, k);
  for (size_t i = 0; i < best.size(); ++i) {
    best_scores[i] = best[i].score;
    best_indices[i] = static_cast<int32_t>(best[i].index);
  }
  Copy(out, best_scores.data(), k * sizeof(float));
  Copy(static_cast<float*>(out) + k, best_indices.data(), k * sizeof(int32_t));
}

BestListed Backend::ListBest(const ListBestArgs& args) const {
  int64_t num_parts = 0;
  for (const KeySegment& segment : args.segments) num_parts += segment.num_parts();
  BestListed best;
  std::vector<int32_t> columns;
  for (const IndexedScore& scored : TopIndices(args.scores, num_parts, args.k)) {
    best.parts.push_back({scored.score, kNoScore, scored.index});
    columns.push_back(static_cast<int32_t>(scored.index));
  }
  std::vector<float> exact(columns.size());
  ScoreListed({args.shape, args.segments, args.queries, args.num_rows, columns, exact.data()});
  for (size_t i = 0; i < exact.size(); ++i) best.parts[i].exact = exact[i];
  if (args.error != nullptr) Copy(&best.error, args.error, sizeof(float));
  return best;
}

void Backend::ListBestInto(const ListBestArgs& args, void* out) const {
  const BestListed best = ListBest(args);
  std::vector<float> scores(2 * static_cast<size_t>(args.k), kNoScore);  // then the exact ones
  std::vector<int32_t> indices(args.k, -1);
  for (size_t i = 0; i < best.parts.size(); ++i) {
    scores[i] = best.parts[i].score;
    scores[args.k + i] = best.parts[i].exact;
    indices[i] = static_cast<int32_t>(best.parts[i].index);
  }
  auto* to = static_cast<float*>(out);
  Copy(to, scores.data(), scores.size() * sizeof(float));
  Copy(to + scores.size(), indices.data(), indices.size() * sizeof(int32_t));
  Copy(to + scores.size() + indices.size(), &best.error, sizeof(float));
}

absl::StatusOr<Buffer> CopyToBackend(const Backend& backend, const void* data, size_t bytes) {
  auto buffer = backend.Allocate(bytes);
  if (buffer.ok()) backend.Copy(buffer->data(), data, bytes);
  return buffer;
}

}  // namespace msa::kernels

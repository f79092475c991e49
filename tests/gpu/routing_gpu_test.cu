// The routing pass and top-k on a GPU against oracles in double precision on the host: formats,
// odd shapes, reductions, several segments, parts of 0 … many chunks, NaN, ties; and scores that
// do not depend, to the bit, on company, place or grouping. Exit code 0 when all hold. With
// any argument, only the quick ones (for compute-sanitizer).
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/routing.h"
#include "kernels/cuda/topk.h"

namespace msa::kernels::cuda {
namespace {

int g_failures = 0;
int g_checks = 0;

#define CUDA_OK(call)                                                                       \
  do {                                                                                      \
    const cudaError_t error_ = (call);                                                      \
    if (error_ != cudaSuccess) {                                                            \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      std::exit(1);                                                                         \
    }                                                                                       \
  } while (0)

void Expect(bool holds, const std::string& what) {
  ++g_checks;
  if (holds) return;
  if (++g_failures <= 40) std::printf("FAILED: %s\n", what.c_str());
}

// Device memory with guard bytes behind it.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    CUDA_OK(cudaMalloc(&data_, Bytes() + kGuard));
    CUDA_OK(cudaMemset(data_, 0xA5, Bytes() + kGuard));
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    CUDA_OK(cudaMemcpy(data_, host.data(), Bytes(), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray(DeviceArray&& other) : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
  }
  ~DeviceArray() { cudaFree(data_); }

  T* get() const { return reinterpret_cast<T*>(data_); }
  std::vector<T> Host() const {
    std::vector<T> host(size_);
    CUDA_OK(cudaMemcpy(host.data(), data_, Bytes(), cudaMemcpyDeviceToHost));
    unsigned char guard[kGuard];
    CUDA_OK(cudaMemcpy(guard, data_ + Bytes(), kGuard, cudaMemcpyDeviceToHost));
    for (const unsigned char byte : guard) Expect(byte == 0xA5, "guard bytes untouched");
    return host;
  }

 private:
  static constexpr size_t kGuard = 256;
  size_t Bytes() const { return size_ * sizeof(T); }
  char* data_ = nullptr;
  size_t size_ = 0;
};

// Keys of one segment as stored, and as the doubles they stand for.
struct Keys {
  std::vector<char> bytes;
  std::vector<float> scales;
  std::vector<double> values;
  int64_t num_chunks = 0;
};

Keys MakeKeys(int64_t num_chunks, int width, KeyFormat format, std::mt19937& random) {
  Keys keys;
  keys.num_chunks = num_chunks;
  std::normal_distribution<float> normal;
  const int bytes = format == KeyFormat::kFloat32 ? 4 : format == KeyFormat::kBFloat16 ? 2 : 1;
  keys.bytes.resize(num_chunks * width * bytes);
  for (int64_t c = 0; c < num_chunks; ++c) {
    const float scale = format == KeyFormat::kInt8     ? 3.5f / 127
                        : format == KeyFormat::kFloat8 ? 0.37f + 0.01f * (c % 7)
                                                       : 1.0f;
    if (format == KeyFormat::kInt8 || format == KeyFormat::kFloat8) keys.scales.push_back(scale);
    for (int i = 0; i < width; ++i) {
      const float x = normal(random);
      char* to = &keys.bytes[(c * width + i) * bytes];
      double value = x;
      if (format == KeyFormat::kFloat32) {
        std::memcpy(to, &x, 4);
      } else if (format == KeyFormat::kBFloat16) {
        const __nv_bfloat16 b = __float2bfloat16_rn(x);
        std::memcpy(to, &b, 2);
        value = __bfloat162float(b);
      } else if (format == KeyFormat::kInt8) {
        const int q = std::clamp(static_cast<int>(std::lround(x / scale)), -127, 127);
        *to = static_cast<char>(q);
        value = static_cast<double>(scale) * q;
      } else {
        const __nv_fp8_e4m3 q(x / scale);
        std::memcpy(to, &q, 1);
        value = static_cast<double>(scale) * static_cast<float>(q);
      }
      keys.values.push_back(value);
    }
  }
  return keys;
}

struct Case {
  RoutingShape shape;
  KeyFormat format = KeyFormat::kBFloat16;
  QueryPrecision precision = QueryPrecision::kSplit;
  std::vector<Keys> segments;
  std::vector<std::vector<int64_t>> part_begin;  // of each segment
  std::vector<float> queries;
  std::vector<int32_t> query_begin;

  int num_questions() const { return static_cast<int>(query_begin.size()) - 1; }
  int64_t num_parts() const {
    int64_t parts = 0;
    for (const auto& begin : part_begin) parts += static_cast<int64_t>(begin.size()) - 1;
    return parts;
  }
};

std::vector<int64_t> MixedParts(int64_t num_chunks, std::mt19937& random) {
  std::vector<int64_t> begin = {0};
  while (begin.back() < num_chunks) {
    const int64_t sizes[] = {0, 1, 2, 3, 9, 9, 17, 300};
    begin.push_back(std::min(num_chunks, begin.back() + sizes[random() % 8]));
  }
  begin.push_back(num_chunks);
  return begin;
}

Case MakeCase(const RoutingShape& shape, KeyFormat format, QueryPrecision precision,
              const std::vector<int64_t>& chunks, const std::vector<int>& rows, uint32_t seed) {
  std::mt19937 random(seed);
  Case c;
  c.shape = shape;
  c.format = format;
  c.precision = precision;
  for (const int64_t n : chunks) {
    c.segments.push_back(MakeKeys(n, shape.key_width(), format, random));
    c.part_begin.push_back(MixedParts(n, random));
  }
  c.query_begin = {0};
  for (const int n : rows) c.query_begin.push_back(c.query_begin.back() + n);
  std::normal_distribution<float> normal;
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.query_width()));
  for (int i = 0; i < c.query_begin.back() * shape.query_width(); ++i) {
    c.queries.push_back(normal(random) * scale);
  }
  return c;
}

std::vector<float> Score(const Case& c, bool general = false) {
  std::vector<DeviceArray<char>> keys;
  std::vector<DeviceArray<float>> scales;
  std::vector<DeviceArray<int64_t>> begins;
  std::vector<RoutingSegment> segments;
  int64_t first_part = 0;
  for (size_t i = 0; i < c.segments.size(); ++i) {
    keys.emplace_back(c.segments[i].bytes);
    scales.emplace_back(c.segments[i].scales);
    begins.emplace_back(c.part_begin[i]);
    RoutingSegment segment;
    segment.keys = keys.back().get();
    segment.scales = c.segments[i].scales.empty() ? nullptr : scales.back().get();
    segment.part_begin = begins.back().get();
    segment.num_parts = static_cast<int64_t>(c.part_begin[i].size()) - 1;
    segment.num_chunks = c.segments[i].num_chunks;
    segment.first_part = first_part;
    first_part += segment.num_parts;
    segments.push_back(segment);
  }
  RoutingArgs args;
  args.num_chunks = NumberChunks(segments.data(), static_cast<int>(segments.size()));
  const DeviceArray<RoutingSegment> table(segments);
  const DeviceArray<float> queries(c.queries);
  const DeviceArray<float> scores(c.num_questions() * c.num_parts());
  const DeviceArray<char> workspace(RoutingWorkspaceBytes(c.shape.key_width()));
  args.shape = c.shape;
  args.format = c.format;
  args.precision = c.precision;
  args.segments = table.get();
  args.num_segments = static_cast<int>(segments.size());
  args.num_parts = c.num_parts();
  args.queries = queries.get();
  args.host_query_begin = c.query_begin.data();
  args.num_questions = c.num_questions();
  args.scores = scores.get();
  CUDA_OK(general ? ScorePartsGeneral(args, nullptr) : ScoreParts(args, workspace.get(), nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  workspace.Host();
  return scores.Host();
}

double Reduced(const std::vector<double>& values, Reduce how) {
  if (how == Reduce::kLast) return values.back();
  double result = how == Reduce::kMax ? -std::numeric_limits<double>::infinity() : 0;
  for (const double value : values) {
    if (std::isnan(value)) return value;
    result = how == Reduce::kMax ? std::max(result, value) : result + value;
  }
  return how == Reduce::kMean ? result / values.size() : result;
}

double OracleDot(const float* q, const double* k, int width) {
  double sum = 0;
  for (int i = 0; i < width; ++i) sum += static_cast<double>(q[i]) * k[i];
  return sum;
}

double OracleRow(const RoutingShape& shape, const float* q, const double* k) {
  if (shape.folded()) return OracleDot(q, k, shape.key_width());
  std::vector<double> heads;
  for (int h = 0; h < shape.num_q_heads; ++h) {
    heads.push_back(OracleDot(q + h * shape.head_dim,
                              k + h / (shape.num_q_heads / shape.num_kv_heads) * shape.head_dim,
                              shape.head_dim));
  }
  return Reduced(heads, shape.head);
}

std::vector<double> Oracle(const Case& c) {
  std::vector<double> scores;
  for (int question = 0; question < c.num_questions(); ++question) {
    for (size_t s = 0; s < c.segments.size(); ++s) {
      for (size_t part = 0; part + 1 < c.part_begin[s].size(); ++part) {
        std::vector<double> chunks;
        for (int64_t i = c.part_begin[s][part]; i < c.part_begin[s][part + 1]; ++i) {
          std::vector<double> rows;
          for (int r = c.query_begin[question]; r < c.query_begin[question + 1]; ++r) {
            rows.push_back(OracleRow(c.shape, &c.queries[r * c.shape.query_width()],
                                     &c.segments[s].values[i * c.shape.key_width()]));
          }
          chunks.push_back(Reduced(rows, c.shape.query));
        }
        scores.push_back(chunks.empty() ? static_cast<double>(kNoScore)
                                        : c.shape.scale * Reduced(chunks, c.shape.chunk));
      }
    }
  }
  return scores;
}

double Tolerance(KeyFormat format, QueryPrecision precision) {
  if (format == KeyFormat::kFloat32) return 3e-6;
  if (precision == QueryPrecision::kSplit) return format == KeyFormat::kBFloat16 ? 3e-5 : 1e-5;
  return format == KeyFormat::kBFloat16 ? 2e-2 : format == KeyFormat::kInt8 ? 5e-4 : 3e-3;
}

double g_worst[5][3];

void ExpectNear(const Case& c, const std::vector<float>& scores, const std::string& name) {
  const std::vector<double> want = Oracle(c);
  const double tolerance = Tolerance(c.format, c.precision) * std::max(1.0f, c.shape.scale);
  double worst = 0;
  bool same = scores.size() == want.size();
  for (size_t i = 0; same && i < want.size(); ++i) {
    if (std::isinf(want[i]) || std::isinf(scores[i])) {
      same = scores[i] == want[i];
    } else {
      worst = std::max(worst, std::isnan(scores[i]) ? 1e9 : std::fabs(scores[i] - want[i]));
    }
  }
  double& overall = g_worst[static_cast<int>(c.format)][static_cast<int>(c.precision)];
  overall = std::max(overall, worst);
  Expect(same && worst <= tolerance,
         name + " error " + std::to_string(worst) + (same ? "" : " (empty parts differ)"));
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

constexpr KeyFormat kFormats[] = {KeyFormat::kFloat32, KeyFormat::kBFloat16, KeyFormat::kInt8,
                                  KeyFormat::kFloat8};
constexpr QueryPrecision kPrecisions[] = {QueryPrecision::kSplit, QueryPrecision::kSingle};

std::string Name(const char* what, KeyFormat format, QueryPrecision precision) {
  return std::string(what) + " format " + std::to_string(static_cast<int>(format)) + " precision " +
         std::to_string(static_cast<int>(precision));
}

RoutingShape Folded(int num_kv_heads, int head_dim, float scale = 1.0f) {
  RoutingShape shape;
  shape.num_q_heads = 3 * num_kv_heads;
  shape.num_kv_heads = num_kv_heads;
  shape.head_dim = head_dim;
  shape.scale = scale;
  return shape;
}

void TestFormatsAndWidths() {
  uint32_t seed = 1;
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : kPrecisions) {
      for (const int width : {16, 48, 192, 256, 1024, 1040, 4096}) {
        for (const int rows : {1, 8, 9, 31, 64, 70}) {
          if (width > 1024 && rows > 31) continue;
          const Case c = MakeCase(Folded(1, width, 0.7f), format, precision, {401}, {rows}, seed++);
          ExpectNear(c, Score(c),
                     Name("width", format, precision) + " " + std::to_string(width) + " rows " +
                         std::to_string(rows));
        }
      }
    }
  }
}

// More than one tile a block, several segments (some empty or tiny), several questions.
void TestSegmentsAndQuestions() {
  uint32_t seed = 1000;
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : kPrecisions) {
      const Case c = MakeCase(Folded(4, 16, 0.5f), format, precision,
                              {3, 0, 17000, 1, 128, 20011, 0, 5}, {1, 11, 32, 2}, seed++);
      ExpectNear(c, Score(c), Name("segments", format, precision));
    }
  }
}

void TestReductions() {
  uint32_t seed = 2000;
  for (const Reduce head : {Reduce::kMean, Reduce::kMax}) {
    for (const Reduce query : {Reduce::kMean, Reduce::kMax, Reduce::kLast}) {
      for (const Reduce chunk : {Reduce::kMean, Reduce::kMax}) {
        for (const KeyFormat format : kFormats) {
          for (const int head_dim : {16, 20}) {
            RoutingShape shape = Folded(3, head_dim, 0.7f);
            shape.head = head;
            shape.query = query;
            shape.chunk = chunk;
            const Case c =
                MakeCase(shape, format, QueryPrecision::kSplit, {151, 40}, {1, 7, 2}, seed++);
            ExpectNear(c, Score(c),
                       "reductions " + std::to_string(static_cast<int>(head)) +
                           std::to_string(static_cast<int>(query)) +
                           std::to_string(static_cast<int>(chunk)));
          }
        }
      }
    }
  }
}

void TestEmpty() {
  Case c = MakeCase(Folded(2, 16), KeyFormat::kBFloat16, QueryPrecision::kSplit, {0, 0}, {3}, 5);
  c.part_begin = {{0, 0, 0}, {0}};
  const std::vector<float> scores = Score(c);
  Expect(scores.size() == 2 && scores[0] == kNoScore && scores[1] == kNoScore, "only empty parts");
}

// A NaN key (or scale, or question) shows in the scores it reaches and in no other.
void TestNan() {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const KeyFormat format : kFormats) {
    for (const bool general : {false, true}) {
      RoutingShape shape = Folded(2, 32);
      Case c = MakeCase(shape, format, QueryPrecision::kSplit, {300}, {4, 4}, 77);
      c.part_begin[0] = {0, 100, 101, 300};
      Case broken = c;
      if (format == KeyFormat::kFloat32) {
        std::memcpy(&broken.segments[0].bytes[(100 * 64 + 5) * 4], &nan, 4);
      } else if (format == KeyFormat::kBFloat16) {
        const uint16_t bits = 0xFFC0;
        std::memcpy(&broken.segments[0].bytes[(100 * 64 + 5) * 2], &bits, 2);
      } else if (format == KeyFormat::kInt8) {
        broken.segments[0].scales[100] = nan;
      } else {
        broken.segments[0].bytes[100 * 64 + 5] = 0x7F;
      }
      std::vector<float> scores = Score(broken, general);
      for (int i = 0; i < 6; ++i) {
        Expect(std::isnan(scores[i]) == (i % 3 == 1), Name("NaN key", format, c.precision));
      }
      broken = c;
      broken.queries[5 * 64 + 3] = -nan;  // second question
      scores = Score(broken, general);
      for (int i = 0; i < 6; ++i) {
        Expect(std::isnan(scores[i]) == (i >= 3), Name("NaN query", format, c.precision));
      }
    }
  }
}

// All scores of one sign, zero questions: orders of the atomic maximum.
void TestSigns() {
  Case c = MakeCase(Folded(1, 16), KeyFormat::kFloat32, QueryPrecision::kSplit, {2000}, {1}, 9);
  for (const float sign : {-1.0f, 0.0f, 1.0f}) {
    for (float& q : c.queries) q = sign;
    float* keys = reinterpret_cast<float*>(c.segments[0].bytes.data());
    for (int i = 0; i < 2000 * 16; ++i) {
      keys[i] = std::fabs(keys[i]);
      c.segments[0].values[i] = keys[i];
    }
    c.part_begin[0] = {0, 2000};
    const float score = Score(c)[0];
    Expect(std::fabs(score - Oracle(c)[0]) < 1e-5, "sign " + std::to_string(sign));
  }
}

Case OneQuestion(const Case& c, int question) {
  Case one = c;
  const int width = c.shape.query_width();
  one.queries.assign(c.queries.begin() + c.query_begin[question] * width,
                     c.queries.begin() + c.query_begin[question + 1] * width);
  one.query_begin = {0, c.query_begin[question + 1] - c.query_begin[question]};
  return one;
}

// Chunks begin … end-1 of the first segment as one part in a segment of their own.
Case OnePart(const Case& c, int64_t begin, int64_t end) {
  Case one = c;
  const int64_t row = static_cast<int64_t>(c.segments[0].bytes.size()) / c.segments[0].num_chunks;
  Keys& keys = one.segments[0];
  keys.bytes.assign(c.segments[0].bytes.begin() + begin * row,
                    c.segments[0].bytes.begin() + end * row);
  if (!keys.scales.empty()) {
    keys.scales.assign(c.segments[0].scales.begin() + begin, c.segments[0].scales.begin() + end);
  }
  keys.num_chunks = end - begin;
  one.part_begin[0] = {0, end - begin};
  return one;
}

void TestBits() {
  uint32_t seed = 3000;
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : kPrecisions) {
      for (const int width : {192, 1024}) {
        const Case c = MakeCase(Folded(1, width, 0.3f), format, precision, {1500},
                                {1, 5, 40, 2, 33, 1}, seed++);
        const std::vector<float> together = Score(c);
        const int64_t parts = c.num_parts();
        Expect(SameBits(together, Score(c)), Name("repeatable", format, precision));
        for (int q = 0; q < c.num_questions(); ++q) {
          const std::vector<float> slice(together.begin() + q * parts,
                                         together.begin() + (q + 1) * parts);
          Expect(SameBits(slice, Score(OneQuestion(c, q))), Name("company", format, precision));
        }
        std::vector<int64_t> begin = c.part_begin[0];
        for (size_t p = 0; p + 1 < begin.size(); p += 7) {
          if (begin[p] == begin[p + 1]) continue;
          const std::vector<float> alone = Score(OnePart(c, begin[p], begin[p + 1]));
          for (int q = 0; q < c.num_questions(); ++q) {
            Expect(alone[q] == together[q * parts + p], Name("place", format, precision));
          }
        }
        Case single = c;
        single.part_begin[0].resize(1501);
        for (int64_t i = 0; i <= 1500; ++i) single.part_begin[0][i] = i;
        const std::vector<float> of_chunks = Score(single);
        for (int q = 0; q < c.num_questions(); ++q) {
          for (int64_t p = 0; p < parts; ++p) {
            float best = kNoScore;
            for (int64_t i = begin[p]; i < begin[p + 1]; ++i) {
              best = std::max(best, of_chunks[q * 1500 + i]);
            }
            Expect(best == together[q * parts + p], Name("grouping", format, precision));
          }
        }
      }
    }
  }
}

struct Best {
  float score;
  int64_t reference;
  int32_t index;
};

void CheckTopK(int64_t n, int k, int questions, bool ties, bool masked, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> scores(questions * n);
  std::vector<int64_t> references(n);
  std::vector<uint8_t> visible(n);
  for (int64_t i = 0; i < n; ++i) {
    references[i] = i * 7 - 3 * n;
    visible[i] = !masked || random() % 3 != 0;
  }
  std::shuffle(references.begin(), references.end(), random);
  std::normal_distribution<float> normal;
  for (float& score : scores) {
    score = ties ? static_cast<float>(random() % 5) - 2.0f : normal(random);
    if (random() % 50 == 0) score = kNoScore;
    if (random() % 50 == 0) score = std::numeric_limits<float>::quiet_NaN();
    if (random() % 50 == 0) score = -0.0f;
  }
  TopKArgs args;
  const DeviceArray<float> device_scores(scores);
  const DeviceArray<int64_t> device_references(references);
  const DeviceArray<uint8_t> device_visible(visible);
  const DeviceArray<float> best_scores(questions * k);
  const DeviceArray<int64_t> best_references(questions * k);
  const DeviceArray<int32_t> best_indices(questions * k);
  const DeviceArray<int32_t> best_counts(questions);
  const DeviceArray<char> workspace(TopKWorkspaceBytes(questions, n, k));
  args.scores = device_scores.get();
  args.references = device_references.get();
  args.visible = masked ? device_visible.get() : nullptr;
  args.num_questions = questions;
  args.num_candidates = n;
  args.stride = n;
  args.k = k;
  args.best_scores = best_scores.get();
  args.best_references = best_references.get();
  args.best_indices = best_indices.get();
  args.best_counts = best_counts.get();
  CUDA_OK(SelectTopK(args, workspace.get(), nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  workspace.Host();
  const auto got_scores = best_scores.Host();
  const auto got_references = best_references.Host();
  const auto got_indices = best_indices.Host();
  const auto got_counts = best_counts.Host();
  const std::string name = "top-k n " + std::to_string(n) + " k " + std::to_string(k);
  for (int q = 0; q < questions; ++q) {
    std::vector<Best> want;
    for (int64_t i = 0; i < n; ++i) {
      const float score = scores[q * n + i];
      if (score > kNoScore && visible[i] != 0) {
        want.push_back({score, references[i], static_cast<int32_t>(i)});
      }
    }
    std::sort(want.begin(), want.end(), [](const Best& a, const Best& b) {
      return Precedes({a.score, a.reference}, {b.score, b.reference});
    });
    if (static_cast<int>(want.size()) > k) want.resize(k);
    Expect(got_counts[q] == static_cast<int>(want.size()), name + " count");
    bool same = true;
    for (int i = 0; i < k; ++i) {
      const Best expected = i < static_cast<int>(want.size()) ? want[i] : Best{kNoScore, -1, -1};
      same = same && got_scores[q * k + i] == expected.score &&
             got_references[q * k + i] == expected.reference &&
             got_indices[q * k + i] == expected.index;
    }
    Expect(same, name + (ties ? " ties" : ""));
  }
}

void TestTopK() {
  uint32_t seed = 1;
  for (const bool ties : {false, true}) {
    for (const int k : {1, 3, 16, 100, 1024}) {
      for (const int64_t n : {0, 1, 15, 16, 1000, 4096, 4097, 50000, 200000}) {
        CheckTopK(n, k, n > 5000 ? 2 : 3, ties, seed % 2 == 0, seed);
        ++seed;
      }
    }
  }
}

int Run(bool quick) {
  TestEmpty();
  TestSigns();
  TestNan();
  TestReductions();
  if (!quick) {
    TestFormatsAndWidths();
    TestSegmentsAndQuestions();
    TestBits();
    TestTopK();
  }
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : kPrecisions) {
      std::printf("%s worst error %.3g\n", Name("scores", format, precision).c_str(),
                  g_worst[static_cast<int>(format)][static_cast<int>(precision)]);
    }
  }
  std::printf("%d checks, %d failed\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace msa::kernels::cuda

int main(int argc, char**) { return msa::kernels::cuda::Run(argc > 1); }

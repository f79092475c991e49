// Banks and questions of the routing tests on a GPU, as the host has them: random keys in every
// format, parts of 0 … many chunks in several segments.
#ifndef MSA_TESTS_GPU_ROUTING_CASE_CUH_
#define MSA_TESTS_GPU_ROUTING_CASE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/routing.h"

namespace msa::kernels::cuda {

// Keys of one segment as stored, and as the doubles they stand for.
struct Keys {
  std::vector<char> bytes;
  std::vector<float> scales;
  std::vector<double> values;
  int64_t num_chunks = 0;
};

inline Keys MakeKeys(int64_t num_chunks, int width, KeyFormat format, std::mt19937& random) {
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

// The norm of the largest key, rounded up.
inline float MaxNorm(const Keys& keys) {
  double largest = 0;
  const size_t width = keys.num_chunks == 0 ? 1 : keys.values.size() / keys.num_chunks;
  for (size_t at = 0; at < keys.values.size(); at += width) {
    double squares = 0;
    for (size_t i = at; i < at + width; ++i) squares += keys.values[i] * keys.values[i];
    largest = std::max(largest, std::sqrt(squares));
  }
  return static_cast<float>(largest * 1.0001);
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

inline std::vector<int64_t> MixedParts(int64_t num_chunks, std::mt19937& random) {
  std::vector<int64_t> begin = {0};
  while (begin.back() < num_chunks) {
    const int64_t sizes[] = {0, 1, 2, 3, 9, 9, 17, 300};
    begin.push_back(std::min(num_chunks, begin.back() + sizes[random() % 8]));
  }
  begin.push_back(num_chunks);
  return begin;
}

inline Case MakeCase(const RoutingShape& shape, KeyFormat format, QueryPrecision precision,
                     const std::vector<int64_t>& chunks, const std::vector<int>& rows,
                     uint32_t seed) {
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

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline constexpr KeyFormat kFormats[] = {KeyFormat::kFloat32, KeyFormat::kBFloat16,
                                         KeyFormat::kInt8, KeyFormat::kFloat8};
inline constexpr QueryPrecision kPrecisions[] = {QueryPrecision::kSplit, QueryPrecision::kSingle};

inline std::string Name(const char* what, KeyFormat format, QueryPrecision precision) {
  return std::string(what) + " format " + std::to_string(static_cast<int>(format)) + " precision " +
         std::to_string(static_cast<int>(precision));
}

inline RoutingShape Folded(int num_kv_heads, int head_dim, float scale = 1.0f) {
  RoutingShape shape;
  shape.num_q_heads = 3 * num_kv_heads;
  shape.num_kv_heads = num_kv_heads;
  shape.head_dim = head_dim;
  shape.scale = scale;
  return shape;
}

// Rows `begin` … `end` - 1 of all questions', as one question.
inline Case Rows(const Case& c, int begin, int end) {
  Case some = c;
  const int width = c.shape.query_width();
  some.queries.assign(c.queries.begin() + begin * width, c.queries.begin() + end * width);
  some.query_begin = {0, end - begin};
  return some;
}

inline Case OneQuestion(const Case& c, int question) {
  return Rows(c, c.query_begin[question], c.query_begin[question + 1]);
}

}  // namespace msa::kernels::cuda

#endif  // MSA_TESTS_GPU_ROUTING_CASE_CUH_

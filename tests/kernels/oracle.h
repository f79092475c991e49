// Definitions of the operations in double precision, written for the tests and sharing no code with
// any backend: everything is widened to matrices of doubles first.
#ifndef MSA_TESTS_KERNELS_ORACLE_H_
#define MSA_TESTS_KERNELS_ORACLE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "common/dtype.h"
#include "kernels/types.h"

namespace msa::testing {

using Doubles = std::vector<double>;

// Random float32 data of a seed; values of order `size`.
inline std::vector<float> RandomFloats(size_t n, uint32_t seed, double size = 1.0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, size);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(normal(generator));
  return values;
}

// A matrix held in some precision, with the doubles it stands for.
struct Matrix {
  DType dtype = DType::kFloat32;
  std::vector<float> f32;
  std::vector<BFloat16> bf16;
  std::vector<int8_t> int8;
  std::vector<uint8_t> fp8;
  std::vector<float> scales;  // [rows], kInt8 and kFloat8
  Doubles values;             // [rows, width]

  const void* data() const {
    if (dtype == DType::kFloat32) return f32.data();
    if (dtype == DType::kBFloat16) return bf16.data();
    return dtype == DType::kInt8 ? static_cast<const void*>(int8.data()) : fp8.data();
  }
};

// What a code of e4m3 stands for, by its definition; NaN for 0x7F and 0xFF.
inline double Float8Value(int code) {
  const int exponent = (code >> 3) & 0xF;
  const int mantissa = code & 7;
  if ((code & 0x7F) == 0x7F) return std::nan("");
  const double size =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -size : size;
}

// The code of the number nearest to x, of two as near the even one; the largest beyond the largest.
inline uint8_t NearestFloat8(double x) {
  int best = 0;
  for (int code = 1; code < 0x7F; ++code) {
    const double better =
        std::abs(std::abs(x) - Float8Value(best)) - std::abs(std::abs(x) - Float8Value(code));
    if (better > 0 || (better == 0 && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

inline Matrix RandomMatrix(int64_t rows, int64_t width, DType dtype, uint32_t seed, double size) {
  Matrix matrix;
  matrix.dtype = dtype;
  const std::vector<float> x = RandomFloats(rows * width, seed, size);
  for (int64_t i = 0; i < rows * width; ++i) {
    if (dtype == DType::kFloat32) {
      matrix.f32.push_back(x[i]);
      matrix.values.push_back(x[i]);
      continue;
    }
    if (dtype == DType::kBFloat16) {
      matrix.bf16.push_back(ToBFloat16(x[i]));
      matrix.values.push_back(ToFloat(matrix.bf16.back()));
      continue;
    }
    if (i % width == 0) {
      matrix.scales.push_back(static_cast<float>(size / 40 * (1 + i / width % 3)));
    }
    if (dtype == DType::kFloat8) {
      matrix.fp8.push_back(NearestFloat8(double{x[i]} / matrix.scales.back()));
      matrix.values.push_back(Float8Value(matrix.fp8.back()) * matrix.scales.back());
    } else {
      const double steps = std::clamp(std::round(double{x[i]} / matrix.scales.back()), -127., 127.);
      matrix.int8.push_back(static_cast<int8_t>(steps));
      matrix.values.push_back(steps * matrix.scales.back());
    }
  }
  return matrix;
}

inline double OracleReduce(const Doubles& values, Reduce reduce) {
  if (reduce == Reduce::kLast) return values.back();
  if (reduce == Reduce::kMax) return *std::max_element(values.begin(), values.end());
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// One score: rows [M, Hq or Hkv, D] against chunks [C, Hkv, D]. Folded rows count as one head of
// Hkv·D elements, since the fold is the mean already.
inline double OraclePartScore(const RoutingShape& shape, const Doubles& rows,
                              const Doubles& chunks) {
  const int heads = shape.folded() ? 1 : shape.num_q_heads;
  const int dim = shape.folded() ? shape.key_width() : shape.head_dim;
  Doubles of_chunks;
  for (size_t c = 0; c < chunks.size() / shape.key_width(); ++c) {
    Doubles of_rows;
    for (size_t r = 0; r < rows.size() / shape.query_width(); ++r) {
      Doubles of_heads;
      for (int h = 0; h < heads; ++h) {
        const int kv = shape.folded() ? 0 : h * shape.num_kv_heads / shape.num_q_heads;
        const auto row = rows.begin() + r * shape.query_width() + h * dim;
        of_heads.push_back(std::inner_product(
            row, row + dim, chunks.begin() + c * shape.key_width() + kv * dim, 0.0));
      }
      of_rows.push_back(OracleReduce(of_heads, shape.folded() ? Reduce::kMax : shape.head));
    }
    of_chunks.push_back(OracleReduce(of_rows, shape.query));
  }
  return shape.scale * OracleReduce(of_chunks, shape.chunk);
}

// softmax(scale · q·kᵀ) · v of one query and head over k, v [n, D]; zeros when n is 0.
inline Doubles OracleAttention(const Doubles& q, const Doubles& k, const Doubles& v, double scale) {
  const size_t dim = q.size();
  Doubles weights;
  for (size_t t = 0; t < k.size() / dim; ++t) {
    weights.push_back(
        std::exp(scale * std::inner_product(q.begin(), q.end(), k.begin() + t * dim, 0.0)));
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  Doubles out(dim, 0.0);
  for (size_t t = 0; t < weights.size(); ++t) {
    for (size_t i = 0; i < dim; ++i) out[i] += weights[t] / total * v[t * dim + i];
  }
  return out;
}

}  // namespace msa::testing

#endif  // MSA_TESTS_KERNELS_ORACLE_H_

// The routing tests' scores in double precision on the host, and how far the device's may be off.
#ifndef MSA_TESTS_GPU_ROUTING_ORACLE_CUH_
#define MSA_TESTS_GPU_ROUTING_ORACLE_CUH_

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/gpu/gpu_test.h"
#include "tests/gpu/routing_case.cuh"

namespace msa::kernels::cuda {

using ::msa::testing::Expect;

inline double Reduced(const std::vector<double>& values, Reduce how) {
  if (how == Reduce::kLast) return values.back();
  double result = how == Reduce::kMax ? -std::numeric_limits<double>::infinity() : 0;
  for (const double value : values) {
    if (std::isnan(value)) return value;
    result = how == Reduce::kMax ? std::max(result, value) : result + value;
  }
  return how == Reduce::kMean ? result / values.size() : result;
}

inline double OracleDot(const float* q, const double* k, int width) {
  double sum = 0;
  for (int i = 0; i < width; ++i) sum += static_cast<double>(q[i]) * k[i];
  return sum;
}

inline double OracleRow(const RoutingShape& shape, const float* q, const double* k) {
  if (shape.folded()) return OracleDot(q, k, shape.key_width());
  std::vector<double> heads;
  for (int h = 0; h < shape.num_q_heads; ++h) {
    heads.push_back(OracleDot(q + h * shape.head_dim,
                              k + h / (shape.num_q_heads / shape.num_kv_heads) * shape.head_dim,
                              shape.head_dim));
  }
  return Reduced(heads, shape.head);
}

inline std::vector<double> Oracle(const Case& c) {
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

inline double Tolerance(KeyFormat format, QueryPrecision precision) {
  if (format == KeyFormat::kFloat32) return 3e-6;
  if (precision == QueryPrecision::kSplit && format != KeyFormat::kInt4) {
    return format == KeyFormat::kInt8 ? 1e-5 : 3e-5;
  }
  if (precision == QueryPrecision::kOnePiece && format == KeyFormat::kInt8) return 8e-2;
  if (format == KeyFormat::kInt4) return precision == QueryPrecision::kSplit ? 5e-4 : 0.1;
  return format == KeyFormat::kBFloat16 ? 2e-2 : format == KeyFormat::kInt8 ? 5e-4 : 3e-3;
}

// Largest error so far, by format and precision.
inline double (&WorstErrors())[6][5] {
  static double errors[6][5] = {};
  return errors;
}

inline void ExpectMatchesOracle(const Case& c, const std::vector<float>& scores,
                                const std::string& name) {
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
  double& overall = WorstErrors()[static_cast<int>(c.format)][static_cast<int>(c.precision)];
  overall = std::max(overall, worst);
  Expect(same && worst <= tolerance,
         name + " error " + std::to_string(worst) + (same ? "" : " (empty parts differ)"));
}

}  // namespace msa::kernels::cuda

#endif  // MSA_TESTS_GPU_ROUTING_ORACLE_CUH_

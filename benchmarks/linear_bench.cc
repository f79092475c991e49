// Linear layers at the shapes of SmolLM2-135M, every weight format, few and many rows. Prints JSON
// with, for each row count, the time of all products of one decoder step and the tokens per second
// they alone would allow.
//   linear_bench [runs]
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "benchmarks/bench_util.h"
#include "kernels/backend.h"

namespace msa::bench {
namespace {

struct Product {
  const char* name;
  int64_t out;
  int64_t in;
  int times;  // in one step of the 30 layers
};

constexpr Product kProducts[] = {{"q, o", 576, 576, 60},
                                 {"k, v", 192, 576, 60},
                                 {"gate, up", 1536, 576, 60},
                                 {"down", 576, 1536, 30},
                                 {"head", 49152, 576, 1}};
constexpr int64_t kLayers = 30;

struct Format {
  const char* name;
  kernels::WeightFormat format;
};
constexpr Format kFormats[] = {{"f32", kernels::WeightFormat::kFloat32},
                               {"bf16", kernels::WeightFormat::kBFloat16},
                               {"int8", kernels::WeightFormat::kInt8}};

// One weight matrix a use, so that a step streams all weights from memory as a model does.
std::vector<std::unique_ptr<kernels::LinearWeights>> Pack(const kernels::Backend& backend,
                                                          const Product& product,
                                                          kernels::WeightFormat format) {
  const std::vector<float> w = RandomFloats(product.out * product.in, 1, 0.05f);
  std::vector<std::unique_ptr<kernels::LinearWeights>> packed;
  for (int i = 0; i < product.times; ++i) {
    packed.push_back(*backend.PackLinear(w.data(), product.out, product.in, format));
  }
  return packed;
}

nlohmann::json BenchFormat(const kernels::Backend& backend, const Format& format, int threads,
                           int runs) {
  std::vector<std::vector<std::unique_ptr<kernels::LinearWeights>>> weights;
  for (const Product& product : kProducts) {
    weights.push_back(Pack(backend, product, format.format));
  }
  nlohmann::json result = nlohmann::json::array();
  for (const int64_t rows : {1, 2, 4, 8, 16, 64, 256, 512}) {
    const std::vector<float> x = RandomFloats(rows * 1536, 2);
    std::vector<float> y(rows * 49152);
    // A prefill of many rows computes the head for its last row only.
    const int64_t head_rows = rows > 8 ? 1 : rows;
    std::vector<std::function<void()>> bodies;
    for (size_t p = 0; p < std::size(kProducts); ++p) {
      bodies.push_back([&, p] {
        const bool head = kProducts[p].times == 1;
        for (const auto& w : weights[p]) {
          backend.Linear(*w, x.data(), head ? head_rows : rows, nullptr, y.data());
        }
      });
    }
    const std::vector<Timing> timings =
        TimeInTurns(rows >= 256 ? std::max(3, runs / 3) : runs, bodies);
    double step = 0;
    nlohmann::json row = {{"format", format.name}, {"rows", rows}, {"threads", threads}};
    for (size_t p = 0; p < std::size(kProducts); ++p) {
      const double work = 2.0 * static_cast<double>(kProducts[p].out * kProducts[p].in) *
                          static_cast<double>(kProducts[p].times == 1 ? head_rows : rows) *
                          kProducts[p].times;
      row["products"][kProducts[p].name] = timings[p].Json();
      row["products"][kProducts[p].name]["gflop_per_s"] = 1e-9 * work / timings[p].median();
      step += timings[p].median();
    }
    row["step_ms"] = step * 1e3;
    row["tokens_per_s"] = static_cast<double>(rows) / step;
    result.push_back(std::move(row));
  }
  return result;
}

int Run(int runs) {
  nlohmann::json result = {{"benchmark", "linear"},
                           {"machine", Machine()},
                           {"model", "SmolLM2-135M"},
                           {"layers", kLayers}};
  nlohmann::json rows = nlohmann::json::array();
  for (const int threads : {1, 2}) {
    const auto backend = *kernels::MakeBackend("cpu", threads);
    for (const Format& format : kFormats) {
      for (auto& row : BenchFormat(*backend, format, threads, runs)) rows.push_back(row);
    }
  }
  result["rows"] = std::move(rows);
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace msa::bench

int main(int argc, char** argv) { return msa::bench::Run(argc > 1 ? std::atoi(argv[1]) : 11); }

// One routing pass over the keys of 1 M tokens, beside the two things that bound it: reading the
// same bytes from memory, and OpenBLAS sgemm of the same shape. Prints JSON.
//   routing_bench [runs]
#include <cblas.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "benchmarks/bench_util.h"
#include "common/dtype.h"
#include "common/thread_pool.h"
#include "kernels/backend.h"

namespace msa::bench {
namespace {

struct Shape {
  const char* name;
  int64_t num_chunks;
  RoutingShape routing;
};

// Keys of 8 bits and their scales.
struct Steps {
  std::vector<uint8_t> values;
  std::vector<float> scales;
};

// Keys of one shape in every precision; parts of 8 chunks.
struct Bank {
  explicit Bank(const Shape& shape, const kernels::Backend& backend) {
    const int64_t width = shape.routing.key_width();
    f32 = RandomFloats(shape.num_chunks * width, 1);
    bf16.resize(f32.size());
    for (Steps* steps : {&int8, &fp8}) {
      steps->values.resize(f32.size());
      steps->scales.resize(shape.num_chunks);
    }
    backend.Quantize(f32.data(), shape.num_chunks, width, DType::kBFloat16, bf16.data(), nullptr);
    backend.Quantize(f32.data(), shape.num_chunks, width, DType::kInt8, int8.values.data(),
                     int8.scales.data());
    backend.Quantize(f32.data(), shape.num_chunks, width, DType::kFloat8, fp8.values.data(),
                     fp8.scales.data());
    for (int64_t chunk = 0; chunk < shape.num_chunks; chunk += 8) part_begin.push_back(chunk);
    part_begin.push_back(shape.num_chunks);
  }

  kernels::KeySegment Segment(DType dtype) const {
    kernels::KeySegment segment = {.dtype = dtype, .part_begin = part_begin};
    if (HasScales(dtype)) {
      const Steps& steps = dtype == DType::kInt8 ? int8 : fp8;
      segment.keys = steps.values.data();
      segment.scales = steps.scales.data();
    } else {
      segment.keys = dtype == DType::kFloat32 ? static_cast<const void*>(f32.data()) : bf16.data();
    }
    return segment;
  }

  std::vector<float> f32;
  std::vector<BFloat16> bf16;
  Steps int8;
  Steps fp8;
  std::vector<int64_t> part_begin;
};

// scores [rows, num_chunks] = queries · keysᵀ by the library, a block of chunks at a time so that
// its output stays in cache.
void Sgemm(const std::vector<float>& queries, int rows, const Bank& bank, int64_t width,
           ThreadPool& pool) {
  constexpr int64_t kBlock = 512;
  const int64_t num_chunks = static_cast<int64_t>(bank.f32.size()) / width;
  pool.ParallelFor(0, num_chunks, kBlock, [&](int64_t begin, int64_t end) {
    thread_local std::vector<float> scores;
    scores.resize(rows * kBlock);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, static_cast<int>(end - begin),
                static_cast<int>(width), 1.0f, queries.data(), static_cast<int>(width),
                bank.f32.data() + begin * width, static_cast<int>(width), 0.0f, scores.data(),
                static_cast<int>(kBlock));
  });
}

// GFLOP/s of the library at 32 rows of this bank.
double SgemmRate(const Bank& bank, int64_t width, ThreadPool& pool, int runs) {
  const std::vector<float> queries = RandomFloats(32 * width, 2);
  const Timing timing = TimeInTurns(runs, {[&] { Sgemm(queries, 32, bank, width, pool); }})[0];
  return 64e-9 * static_cast<double>(bank.f32.size()) / timing.median();
}

// GFLOP/s of a product that fits no bound but arithmetic.
double SgemmPeak(ThreadPool& pool) {
  constexpr int kSize = 768;
  const std::vector<float> a = RandomFloats(kSize * kSize, 1);
  std::vector<std::vector<float>> outs(pool.num_threads(), std::vector<float>(kSize * kSize));
  const Timing timing = TimeInTurns(
      7, {[&] {
        pool.ParallelFor(0, pool.num_threads(), 1, [&](int64_t begin, int64_t) {
          cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, kSize, kSize, kSize, 1.0f, a.data(),
                      kSize, a.data(), kSize, 0.0f, outs[begin].data(), kSize);
        });
      }})[0];
  return 2e-9 * kSize * kSize * kSize * pool.num_threads() / timing.best();
}

nlohmann::json BenchOne(const Shape& shape, const Bank& bank, const kernels::Backend& backend,
                        ThreadPool& pool, DType dtype, int rows, double sgemm_gflop_per_s,
                        int runs) {
  const int64_t width = shape.routing.key_width();
  const std::vector<float> queries = RandomFloats(rows * width, 2);
  const std::vector<int32_t> query_begin = {0, rows};
  const kernels::KeySegment segment = bank.Segment(dtype);
  std::vector<float> scores(segment.num_parts());
  const size_t key_bytes = bank.f32.size() * DTypeBytes(dtype);
  volatile uint64_t sink = 0;
  const std::vector<Timing> timings = TimeInTurns(
      runs, {[&] {
               backend.ScoreParts({.shape = shape.routing,
                                   .segment = segment,
                                   .queries = queries.data(),
                                   .query_begin = query_begin,
                                   .scores = scores.data()});
             },
             [&] {
               pool.ParallelFor(0, static_cast<int64_t>(key_bytes), 1 << 20,
                                [&](int64_t begin, int64_t end) {
                                  const char* bytes = static_cast<const char*>(segment.keys);
                                  sink = sink + ReadAll(bytes + begin, end - begin);
                                });
             },
             [&] { Sgemm(queries, rows, bank, width, pool); }});
  const double flops = 2.0 * static_cast<double>(bank.f32.size()) * rows;
  // Nearer limit: reading the keys, or multiplying them at the rate the library reaches at 32 rows.
  const double multiply = flops / (1e9 * sgemm_gflop_per_s);
  const double nearer = std::max(timings[1].median(), multiply);
  return {{"shape", shape.name},
          {"chunks", shape.num_chunks},
          {"key_width", width},
          {"precision", std::string(DTypeName(dtype))},
          {"query_rows", rows},
          {"threads", pool.num_threads()},
          {"route", timings[0].Json()},
          {"read", timings[1].Json()},
          {"sgemm_f32", timings[2].Json()},
          {"route_gb_per_s", 1e-9 * static_cast<double>(key_bytes) / timings[0].median()},
          {"read_gb_per_s", 1e-9 * static_cast<double>(key_bytes) / timings[1].median()},
          {"route_gflop_per_s", 1e-9 * flops / timings[0].median()},
          {"sgemm_gflop_per_s", 1e-9 * flops / timings[2].median()},
          {"of_read_bandwidth", timings[1].median() / timings[0].median()},
          {"of_sgemm_rate", timings[2].median() / timings[0].median()},
          {"limit", multiply > timings[1].median() ? "arithmetic" : "memory"},
          {"of_nearer_limit", nearer / timings[0].median()}};
}

// At one query row: how much faster the narrow precisions are than float32.
nlohmann::json Speedups(const nlohmann::json& rows) {
  nlohmann::json speedups = nlohmann::json::array();
  for (const nlohmann::json& wide : rows) {
    if (wide["precision"] != "f32") continue;
    for (const nlohmann::json& row : rows) {
      if (row["precision"] == "f32" || row["shape"] != wide["shape"] ||
          row["threads"] != wide["threads"] || row["query_rows"] != wide["query_rows"]) {
        continue;
      }
      speedups.push_back({{"shape", row["shape"]},
                          {"threads", row["threads"]},
                          {"query_rows", row["query_rows"]},
                          {"precision", row["precision"]},
                          {"times_f32", wide["route"]["median_us"].get<double>() /
                                            row["route"]["median_us"].get<double>()}});
    }
  }
  return speedups;
}

int Run(int runs) {
  openblas_set_num_threads(1);
  const Shape shapes[] = {
      {"msa4b_p64", 15625, {.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128}},
      {"smollm2_p16", 62500, {.num_q_heads = 9, .num_kv_heads = 3, .head_dim = 64}}};
  nlohmann::json result = {{"benchmark", "routing"}, {"machine", Machine()}, {"tokens", 1000000}};
  nlohmann::json rows = nlohmann::json::array();
  std::vector<int> thread_counts = {1};
  if (std::thread::hardware_concurrency() > 1) thread_counts.push_back(0);
  for (const int threads : thread_counts) {
    const auto backend = *kernels::MakeBackend("cpu", threads);
    ThreadPool pool(threads);
    result["sgemm_peak_gflop_per_s"][std::to_string(pool.num_threads())] = SgemmPeak(pool);
    for (const Shape& shape : shapes) {
      const Bank bank(shape, *backend);
      const double sgemm = SgemmRate(bank, shape.routing.key_width(), pool, runs);
      for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
        for (const int query_rows : {1, 8, 32}) {
          rows.push_back(BenchOne(shape, bank, *backend, pool, dtype, query_rows, sgemm, runs));
        }
      }
    }
  }
  result["speedups"] = Speedups(rows);
  result["rows"] = std::move(rows);
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace msa::bench

int main(int argc, char** argv) { return msa::bench::Run(argc > 1 ? std::atoi(argv[1]) : 11); }

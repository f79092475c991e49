// OpenBLAS against oneDNN at the dense products of SmolLM2-135M, for
// docs/decisions/0001-dense-products.md. Built only where oneDNN is installed. Prints JSON.
// One library a run, since the idle threads of one would spin on the cores of the other:
//   dense_library_bench [openblas|openblas_on_pool|onednn|onednn_on_pool [runs]]
// Without a name it starts itself once for each.
#include <cblas.h>
#include <dnnl.h>
#include <omp.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "benchmarks/bench_util.h"
#include "common/thread_pool.h"

namespace msa::bench {
namespace {

struct Shape {
  const char* name;
  int64_t out;
  int64_t in;
};
constexpr Shape kShapes[] = {{"q, o", 576, 576},
                             {"k, v", 192, 576},
                             {"gate, up", 1536, 576},
                             {"down", 576, 1536},
                             {"head", 49152, 576}};

void OpenBlas(const float* x, int64_t rows, const Shape& shape, const float* w, float* y,
              int64_t begin, int64_t end) {
  const int in = static_cast<int>(shape.in);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows),
              static_cast<int>(end - begin), in, 1.0f, x, in, w + begin * in, in, 0.0f, y + begin,
              static_cast<int>(shape.out));
}

// y = x · wᵀ by the library called `name`.
void Product(const std::string& name, ThreadPool* pool, const float* x, int64_t rows,
             const Shape& shape, const float* w, float* y) {
  if (name == "openblas") {
    OpenBlas(x, rows, shape, w, y, 0, shape.out);
  } else if (name == "onednn") {
    dnnl_sgemm('N', 'T', rows, shape.out, shape.in, 1.0f, x, shape.in, w, shape.in, 0.0f, y,
               shape.out);
  } else {
    pool->ParallelFor(0, shape.out, (shape.out / 2 + 15) / 16 * 16,
                      [&](int64_t begin, int64_t end) {
                        if (name == "openblas_on_pool") {
                          return OpenBlas(x, rows, shape, w, y, begin, end);
                        }
                        omp_set_num_threads(1);  // of this thread
                        dnnl_sgemm('N', 'T', rows, end - begin, shape.in, 1.0f, x, shape.in,
                                   w + begin * shape.in, shape.in, 0.0f, y + begin, shape.out);
                      });
  }
}

int Run(const std::string& name, int runs) {
  ThreadPool pool(name.ends_with("_on_pool") ? 2 : 1);
  openblas_set_num_threads(name == "openblas" ? 2 : 1);
  nlohmann::json result = {{"benchmark", "dense_library"},
                           {"machine", Machine()},
                           {"library", name},
                           {"openblas", openblas_get_config()},
                           {"openblas_core", openblas_get_corename()},
                           {"onednn", std::to_string(dnnl_version()->major) + "." +
                                          std::to_string(dnnl_version()->minor)}};
  for (const Shape& shape : kShapes) {
    for (const int64_t rows : {1, 8, 64, 256, 512}) {
      if (shape.out > 10000 && rows > 64) continue;  // a prefill wants one row of logits
      const std::vector<float> x = RandomFloats(rows * shape.in, 1);
      const std::vector<float> w = RandomFloats(shape.out * shape.in, 2);
      std::vector<float> y(rows * shape.out);
      const Timing timing = TimeInTurns(
          rows > 64 ? runs : 4 * runs,
          {[&] { Product(name, &pool, x.data(), rows, shape, w.data(), y.data()); }})[0];
      const double gflop = 2e-9 * static_cast<double>(rows * shape.out * shape.in);
      result["rows"].push_back({{"product", shape.name},
                                {"rows", rows},
                                {"gflop_per_s", gflop / timing.median()},
                                {"best_gflop_per_s", gflop / timing.best()}});
    }
  }
  std::printf("%s\n", result.dump(1).c_str());
  return 0;
}

// Every library in a process of its own.
int RunAll(const std::string& program) {
  nlohmann::json all = {{"benchmark", "dense_library"}, {"libraries", nlohmann::json::array()}};
  for (const char* name : {"openblas", "openblas_on_pool", "onednn", "onednn_on_pool"}) {
    FILE* pipe = popen((program + " " + name).c_str(), "r");
    if (pipe == nullptr) return 1;
    std::string text;
    for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) text += static_cast<char>(c);
    if (pclose(pipe) != 0) return 1;
    all["libraries"].push_back(nlohmann::json::parse(text));
  }
  std::printf("%s\n", all.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace msa::bench

int main(int argc, char** argv) {
  if (argc == 1) return msa::bench::RunAll(argv[0]);
  return msa::bench::Run(argv[1], argc > 2 ? std::atoi(argv[2]) : 15);
}

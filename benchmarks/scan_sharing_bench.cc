// Questions of one bank that come at the same time: one pass over the keys for all that wait,
// against one pass each, one after another. Prints one JSON object.
//   scan_sharing_bench [TOKENS]      of memory, default 1,000,000 at 16 a chunk
#include <barrier>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "benchmarks/bench_util.h"
#include "common/block_layout.h"
#include "common/check.h"
#include "kernels/backend.h"
#include "memory_node/routing_index.h"
#include "memory_node/scan_sharing.h"
#include "nlohmann/json.hpp"

namespace msa {
namespace {

using nlohmann::json;

constexpr int kRuns = 7;
constexpr int kChunkTokens = 16, kPartChunks = 16;

struct Shape {
  const char* name;
  RoutingShape routing;
};

// An index of one layer. The same few parts' keys again and again: what is read is what counts.
std::unique_ptr<memory_node::RoutingIndex> MakeIndex(const kernels::Backend& backend,
                                                     const RoutingShape& routing, DType dtype,
                                                     int64_t chunks) {
  const int64_t width = routing.key_width();
  auto index = std::make_unique<memory_node::RoutingIndex>(
      backend, memory_node::SegmentShape{dtype, width, 1}, memory_node::IndexOptions());
  const std::vector<float> keys = bench::RandomFloats(kPartChunks * width, 1);
  const RoutingBlockLayout layout(dtype, kPartChunks, width);
  std::string block(layout.size, '\0');
  backend.Quantize(keys.data(), kPartChunks, width, dtype, block.data(),
                   reinterpret_cast<float*>(block.data() + layout.scales_offset));
  for (int64_t reference = 0; reference < chunks / kPartChunks; ++reference) {
    const memory_node::IndexPart part{reference, kPartChunks, kPartChunks, {block}};
    MSA_CHECK(index->Append({&part, 1}).ok());
    index->Publish({&reference, 1}, {});
  }
  return index;
}

// Seconds of one round: `questions` threads each ask once, all begun together.
class Crowd {
 public:
  Crowd(int questions, std::function<void(int)> ask)
      : begin_(questions + 1), end_(questions + 1), ask_(std::move(ask)) {
    for (int q = 0; q < questions; ++q) {
      threads_.emplace_back([this, q] {
        while (true) {
          begin_.arrive_and_wait();
          if (stop_) return;
          ask_(q);
          end_.arrive_and_wait();
        }
      });
    }
  }
  ~Crowd() {
    stop_ = true;
    begin_.arrive_and_wait();
    for (std::thread& thread : threads_) thread.join();
  }
  void AskTogether() {
    begin_.arrive_and_wait();
    end_.arrive_and_wait();
  }

 private:
  std::barrier<> begin_, end_;
  const std::function<void(int)> ask_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

json Measure(const kernels::Backend& backend, const Shape& shape, DType dtype, int64_t chunks,
             int rows, int questions) {
  const auto index = MakeIndex(backend, shape.routing, dtype, chunks);
  memory_node::ScanSharer sharer(&backend, {});
  std::vector<std::vector<float>> queries;
  for (int q = 0; q < questions; ++q) {
    queries.push_back(bench::RandomFloats(rows * shape.routing.query_width(), 100 + q));
  }
  const auto ask = [&](int q) {
    MSA_CHECK(sharer.Score({}, {index.get(), &shape.routing, 0, &queries[q]}).ok());
  };
  Crowd crowd(questions, ask);
  const auto alone = [&] {
    for (int q = 0; q < questions; ++q) ask(q);
  };
  int64_t passes = 0;
  const auto together = [&] {
    const int64_t before = sharer.passes();
    crowd.AskTogether();
    passes += sharer.passes() - before;
  };
  const auto timings = bench::TimeInTurns(kRuns, {alone, together});
  return {{"shape", shape.name},
          {"dtype", std::string(DTypeName(dtype))},
          {"rows_a_question", rows},
          {"questions", questions},
          {"one_after_another_ms", timings[0].median() * 1e3},
          {"together_ms", timings[1].median() * 1e3},
          {"passes_together", static_cast<double>(passes) / (kRuns + 1)},
          {"gain", timings[0].median() / timings[1].median()}};
}

int Main(int64_t tokens) {
  const auto backend = kernels::MakeBackend("cpu", 0);
  const Shape shapes[] = {
      {"SmolLM2-135M", {.num_q_heads = 9, .num_kv_heads = 3, .head_dim = 64}},
      {"MSA-4B", {.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128}},
  };
  json rows = json::array();
  for (const Shape& shape : shapes) {
    for (const DType dtype : {DType::kBFloat16, DType::kInt8}) {
      // One routing token a question (the pass waits for memory), and as many as short questions
      // have.
      for (const int tokens_a_question : {1, 16}) {
        for (const int questions : {1, 4, 16}) {
          rows.push_back(Measure(**backend, shape, dtype, tokens / kChunkTokens, tokens_a_question,
                                 questions));
        }
      }
    }
  }
  std::cout << json{{"benchmark", "scan_sharing"},
                    {"machine", bench::Machine()},
                    {"memory_tokens", tokens},
                    {"runs", kRuns},
                    {"rows", rows}}
                   .dump()
            << std::endl;
  return 0;
}

}  // namespace
}  // namespace msa

int main(int argc, char** argv) { return msa::Main(argc > 1 ? std::atoll(argv[1]) : 1'000'000); }

// The engine alone, without service and memory, on any backend: encoding and decode of a model of
// random weights. One JSON line a measurement.
//   engine_bench [BACKEND [TOKENIZER.json [MODEL [RUNS]]]]
// Default: cpu, a tokenizer of tests/golden, msa-tiny (or msa-4b), 5. tflop_s counts dense products
// only, of the layers computed.
#include <atomic>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "benchmarks/bench_util.h"
#include "compute_node/encoder.h"
#include "compute_node/model/synthetic_model.h"
#include "compute_node/model/tokenizer.h"
#include "compute_node/model/transformer.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {
namespace {

using nlohmann::json;

std::vector<int32_t> SomeTokens(const ModelConfig& config, size_t count, size_t seed) {
  std::vector<int32_t> tokens(count);
  for (size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<int32_t>(100 + (i + seed) * 7919 % (config.vocab_size - 200));
  }
  return tokens;
}

// Ends where encoding ends.
class EncodingHook : public ForwardHook {
 public:
  explicit EncodingHook(int last) : last_(last) {}
  int LastNeededLayer() const override { return last_; }

 private:
  int last_;
};

class EngineBench {
 public:
  EngineBench(const Transformer& model, const Tokenizer& tokenizer, int runs)
      : model_(model), tokenizer_(tokenizer), runs_(runs) {}

  void Forward(int documents, int tokens) {
    std::vector<std::vector<int32_t>> texts;
    std::vector<SequenceChunk> batch(documents);
    for (int i = 0; i < documents; ++i) texts.push_back(SomeTokens(model_.config(), tokens, i));
    for (int i = 0; i < documents; ++i) batch[i].tokens = texts[i];
    EncodingHook hook(model_.config().memory.router_layers.back());
    Check(model_.Forward(batch, &hook).status());
    const double all = static_cast<double>(documents) * tokens;
    json result = Rate("forward", all, [&] { Check(model_.Forward(batch, &hook).status()); });
    result["documents"] = documents;
    result["document_tokens"] = tokens;
    std::cout << result << std::endl;
  }

  // Documents added by `threads` callers at once.
  void Encode(int threads, int documents_each) {
    DocumentEncoder encoder(model_, tokenizer_);
    std::string text;
    while (tokenizer_.Encode(std::string_view(text))->size() < 560) {
      for (int i = 0; i < 40; ++i) text += " word" + std::to_string(text.size() % 997);
    }
    rpc::BankSpec bank;
    const MemoryConfig& memory = model_.config().memory;
    bank.routing = model_.config().Routing();
    bank.routing_chunk_tokens = memory.routing_chunk_tokens;
    bank.content_chunk_tokens = memory.content_chunk_tokens;
    bank.routing_dtype = bank.content_dtype = DType::kBFloat16;
    std::atomic<int64_t> tokens{0};
    const auto run = [&] {
      tokens = 0;
      std::vector<std::thread> callers;
      for (int t = 0; t < threads; ++t) {
        callers.emplace_back([&, t] {
          for (int i = 0; i < documents_each; ++i) {
            const ReferencedText part{t * 1000 + i, text};
            const auto parts = encoder.Encode(bank, {&part, 1});
            Check(parts.status());
            tokens += parts->front().num_tokens;
          }
        });
      }
      for (std::thread& caller : callers) caller.join();
    };
    run();
    json result = Rate("encode", static_cast<double>(tokens), run);
    result["callers"] = threads;
    std::cout << result << std::endl;
  }

  // Steps of sequences that have `own` tokens already.
  void Decode(int batch, int own) {
    constexpr int kSteps = 32;
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<SequenceChunk> steps(batch);
    const int32_t token = 500;
    for (int s = 0; s < batch; ++s) {
      caches.push_back(std::make_unique<KvCache>(model_.NewCache(own + 512)));
      const std::vector<int32_t> prompt = SomeTokens(model_.config(), own, s);
      SequenceChunk chunk;
      chunk.tokens = prompt;
      chunk.cache = caches[s].get();
      Check(model_.Forward({&chunk, 1}, nullptr).status());
      steps[s].tokens = absl::MakeConstSpan(&token, 1);
      steps[s].first_position = own;
      steps[s].cache = caches[s].get();
    }
    const auto run = [&] {
      for (int i = 0; i < kSteps; ++i) Check(model_.NextTokens(steps, nullptr).status());
    };
    run();
    json result = Rate("decode", kSteps * batch, run);
    result["ms_per_step"] = 1e3 * batch / result["tokens_per_s"].get<double>();
    result["batch"] = batch;
    result["own_tokens"] = own;
    std::cout << result << std::endl;
  }

 private:
  static void Check(const absl::Status& status) {
    if (status.ok()) return;
    std::cerr << status << "\n";
    std::exit(1);
  }

  json Rate(const char* what, double tokens, const std::function<void()>& work) const {
    const bench::Timing timing = bench::TimeInTurns(runs_, {work})[0];
    const ModelConfig& c = model_.config();
    const double layer =
        2.0 * c.hidden_size *
        (c.head_dim * (2.0 * c.num_q_heads + 2.0 * c.num_kv_heads) + 3.0 * c.intermediate_size);
    return {{"what", what},
            {"backend", model_.backend().name()},
            {"tokens_per_s", tokens / timing.median()},
            {"min", tokens / timing.Quantile(1.0)},
            {"max", tokens / timing.best()},
            {"tflop_s", layer * c.num_layers * tokens / timing.median() * 1e-12}};
  }

  const Transformer& model_;
  const Tokenizer& tokenizer_;
  const int runs_;
};

int Main(const std::string& backend_name, const std::string& tokenizer_file,
         const std::string& model_name, int runs) {
  const auto backend = kernels::MakeBackend(backend_name, 0);
  const auto tokenizer = Tokenizer::Load(tokenizer_file);
  const auto config = SyntheticConfig(model_name);
  for (const absl::Status& status : {backend.status(), tokenizer.status(), config.status()}) {
    if (status.ok()) continue;
    std::cerr << status << "\n";
    return 1;
  }
  auto weights = SyntheticWeights(*config, **backend, kernels::WeightFormat::kBFloat16);
  if (!weights.ok()) {
    std::cerr << weights.status() << "\n";
    return 1;
  }
  const auto model = Transformer::Make(*config, *std::move(weights), **backend);
  EngineBench bench(**model, **tokenizer, runs);
  const bool small = model_name == "msa-tiny";
  for (const int batch : {1, 2, 8, 16, 32, 64}) {
    if (!small || batch <= 8) bench.Decode(batch, small ? 32 : 256);
  }
  bench.Forward(small ? 2 : 16, small ? 64 : 512);
  bench.Forward(small ? 4 : 14, small ? 33 : 576);
  bench.Forward(1, 182);
  bench.Encode(small ? 2 : 48, small ? 1 : 4);
  return 0;
}

}  // namespace
}  // namespace msa::compute_node

int main(int argc, char** argv) {
  const auto argument = [&](int i, const char* otherwise) {
    return argc > i ? argv[i] : otherwise;
  };
  return msa::compute_node::Main(argument(1, "cpu"),
                                 argument(2, "tests/golden/tokenizers/smollm2_msa.json"),
                                 argument(3, "msa-tiny"), std::atoi(argument(4, "5")));
}

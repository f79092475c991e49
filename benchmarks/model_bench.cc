// The decoder on this machine: encoding and prefill in tokens a second, decode at batch 1 and 8,
// for each weight format.
//   model_bench [MODEL_DIR [RUNS [THREADS [FORMAT]]]]
// Default: models/smollm2-135m-instruct, 5, one thread a core, all formats (f32, bf16, int8).
// Prints one JSON object. model_bench.py runs it in turns with the peers that do the same work.
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/bench_util.h"
#include "common/check.h"
#include "common/file.h"
#include "compute_node/encoder.h"
#include "compute_node/model/tokenizer.h"
#include "compute_node/model/transformer.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {
namespace {

using nlohmann::json;

// Median and spread of tokens a second over runs of `work`, which handles `tokens`.
json Rate(int runs, double tokens, const std::function<void()>& work) {
  const bench::Timing timing = bench::TimeInTurns(runs, {work})[0];
  return {{"tokens_per_s", tokens / timing.median()},
          {"min", tokens / timing.Quantile(1.0)},
          {"max", tokens / timing.best()}};
}

std::vector<int32_t> SomeTokens(const Transformer& model, size_t count) {
  std::vector<int32_t> tokens(count);
  for (size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<int32_t>(100 + i * 7919 % (model.config().vocab_size - 200));
  }
  return tokens;
}

// Documents of 170 tokens, as the demo's, in one call: all that the service does to them before it
// stores them, split and stored excepted.
json Encode(const Transformer& model, const Tokenizer& tokenizer, int runs) {
  constexpr int kDocuments = 6, kTokens = 170;
  const ModelConfig& config = model.config();
  rpc::BankSpec bank;
  bank.router_layers = config.memory.router_layers;
  bank.routing = config.Routing();
  bank.routing_chunk_tokens = config.memory.routing_chunk_tokens;
  bank.content_chunk_tokens = config.memory.content_chunk_tokens;
  DocumentEncoder encoder(model, tokenizer);
  const auto encode = [&](int words) {
    std::string text;
    for (int i = 0; i < words; ++i) text += " the";  // a token each
    return *encoder.Encode({}, bank, std::vector<ReferencedText>(kDocuments, {1, text}));
  };
  const int frame = encode(1).front().num_tokens - 1;
  return Rate(runs, kDocuments * kTokens, [&] { encode(kTokens - frame); });
}

json Prefill(const Transformer& model, int runs) {
  const std::vector<int32_t> tokens = SomeTokens(model, 512);
  return Rate(runs, 512, [&] {
    KvCache cache = model.NewCache(512);
    SequenceChunk sequence;
    sequence.tokens = tokens;
    sequence.cache = &cache;
    const auto hidden = model.Forward({&sequence, 1}, nullptr);
    MSA_CHECK(model.Logits(*hidden).ok());
  });
}

// 32 steps from an empty context, head included.
json Decode(const Transformer& model, int runs, int batch_size) {
  constexpr int kSteps = 32;
  return Rate(runs, kSteps * batch_size, [&] {
    std::vector<KvCache> caches;
    for (int s = 0; s < batch_size; ++s) caches.push_back(model.NewCache(128));
    std::vector<SequenceChunk> steps(batch_size);
    const int32_t token = 500;
    for (int s = 0; s < batch_size; ++s) {
      steps[s].tokens = absl::MakeConstSpan(&token, 1);
      steps[s].cache = &caches[s];
    }
    for (int i = 0; i < kSteps; ++i) {
      for (SequenceChunk& step : steps) step.first_position = i;
      const auto hidden = model.Forward(steps, nullptr);
      MSA_CHECK(model.Logits(*hidden).ok());
    }
  });
}

int Main(const std::string& dir, int runs, int threads, const std::string& only) {
  const auto backend = kernels::MakeBackend("cpu", threads);
  const auto text = ReadFile(dir + "/config.json", 1 << 20);
  if (!text.ok()) {
    std::cerr << text.status() << ": run `make model` first, or name a model folder\n";
    return 1;
  }
  const auto config = ParseModelConfig(*text);
  const auto loaded = Tokenizer::Load(dir + "/tokenizer.json");
  if (!loaded.ok()) {
    std::cerr << loaded.status() << "\n";
    return 1;
  }
  const std::unique_ptr<Tokenizer>& tokenizer = *loaded;
  WeightSource source;
  source.model_dir = dir;
  json result = {{"benchmark", "model"}, {"model", dir}, {"runs", runs}};
  for (const auto& [name, format] : {std::pair{"f32", kernels::WeightFormat::kFloat32},
                                     std::pair{"bf16", kernels::WeightFormat::kBFloat16},
                                     std::pair{"int8", kernels::WeightFormat::kInt8}}) {
    if (!only.empty() && only != name) continue;
    auto weights = LoadWeights(source, *config, **backend, format);
    if (!weights.ok()) {
      std::cerr << weights.status() << "\n";
      return 1;
    }
    const auto made = Transformer::Make(*config, *std::move(weights), **backend);
    if (!made.ok()) {
      std::cerr << made.status() << "\n";
      return 1;
    }
    const Transformer& model = **made;
    result["weights"][name] = {{"encode", Encode(model, *tokenizer, runs)},
                               {"prefill_512", Prefill(model, runs)},
                               {"decode_batch_1", Decode(model, runs, 1)},
                               {"decode_batch_8", Decode(model, runs, 8)}};
  }
  std::cout << result.dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace msa::compute_node

int main(int argc, char** argv) {
  return msa::compute_node::Main(argc > 1 ? argv[1] : "models/smollm2-135m-instruct",
                                 argc > 2 ? std::atoi(argv[2]) : 5,
                                 argc > 3 ? std::atoi(argv[3]) : 0, argc > 4 ? argv[4] : "");
}

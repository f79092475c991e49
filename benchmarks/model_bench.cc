// The decoder on this machine: encoding and prefill in tokens a second, decode at batch 1 and 8,
// for each weight format.
//   model_bench [MODEL_DIR]      default models/smollm2-135m-instruct; prints one JSON object
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "benchmarks/bench_util.h"
#include "compute_node/model/transformer.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {
namespace {

using nlohmann::json;

constexpr int kRuns = 5;

// Median and spread of tokens a second over runs of `work`, which handles `tokens`.
json Rate(double tokens, const std::function<void()>& work) {
  const bench::Timing timing = bench::TimeInTurns(kRuns, {work})[0];
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

// Documents of 170 tokens, as the demo's, packed to a batch.
json Encode(const Transformer& model) {
  constexpr size_t kDocuments = 6, kTokens = 170;
  const std::vector<int32_t> tokens = SomeTokens(model, kTokens);
  std::vector<SequenceChunk> batch(kDocuments);
  for (SequenceChunk& sequence : batch) sequence.tokens = tokens;
  return Rate(kDocuments * kTokens, [&] { model.Forward(batch, nullptr).IgnoreError(); });
}

json Prefill(const Transformer& model) {
  const std::vector<int32_t> tokens = SomeTokens(model, 512);
  SequenceChunk sequence;
  sequence.tokens = tokens;
  return Rate(512, [&] {
    const auto hidden = model.Forward({&sequence, 1}, nullptr);
    model.Logits(*hidden);
  });
}

// 32 steps from an empty context, head included.
json Decode(const Transformer& model, int batch_size) {
  constexpr int kSteps = 32;
  return Rate(kSteps * batch_size, [&] {
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
      model.Logits(*hidden);
    }
  });
}

int Main(const std::string& dir) {
  const auto backend = kernels::MakeBackend("cpu", 0);
  const auto text = ReadFile(dir + "/config.json", 1 << 20);
  if (!text.ok()) {
    std::cerr << text.status() << ": run `make model` first, or name a model folder\n";
    return 1;
  }
  const auto config = ParseModelConfig(*text);
  WeightSource source;
  source.model_dir = dir;
  json result = {{"benchmark", "model"}, {"model", dir}, {"runs", kRuns}};
  for (const auto& [name, format] : {std::pair{"f32", kernels::WeightFormat::kFloat32},
                                     std::pair{"bf16", kernels::WeightFormat::kBFloat16},
                                     std::pair{"int8", kernels::WeightFormat::kInt8}}) {
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
    result["weights"][name] = {{"encode", Encode(model)},
                               {"prefill_512", Prefill(model)},
                               {"decode_batch_1", Decode(model, 1)},
                               {"decode_batch_8", Decode(model, 8)}};
  }
  std::cout << result.dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace msa::compute_node

int main(int argc, char** argv) {
  return msa::compute_node::Main(argc > 1 ? argv[1] : "models/smollm2-135m-instruct");
}

// The engine alone, without service and memory, on any backend: encoding and decode of a model of
// random weights. One JSON line a measurement.
//   engine_bench [BACKEND [TOKENIZER.json [MODEL [RUNS [PARTS]]]]]
// Default: cpu, a tokenizer of tests/golden, msa-tiny (or msa-4b), 5, all: decode,forward,encode,
// beside. tflop_s counts dense products only, of the layers computed.
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
#include "common/crc32c.h"
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
    json result = Rate("forward", all, [&] {
      Check(model_.Forward(batch, &hook).status());
      AwaitBackend();  // a pass that ends early may still be under way
    });
    result["documents"] = documents;
    result["document_tokens"] = tokens;
    std::cout << result << std::endl;
  }

  // Documents added by `threads` callers at once.
  void Encode(int threads, int documents_each) {
    DocumentEncoder encoder(model_, tokenizer_);
    const auto run = [&] { tokens_ = EncodeBy(encoder, threads, documents_each); };
    run();
    json result = Rate("encode", static_cast<double>(tokens_), run);
    result["callers"] = threads;
    // Of one document alone, to compare builds by.
    const auto parts = EncodeOne(encoder, 0);
    uint32_t routing = 0, content = 0;
    for (const rpc::EncodedLayer& layer : parts.front().layers) {
      routing = Crc32c(layer.routing.view(), routing);
      content = Crc32c(layer.content.view(), content);
    }
    result["routing_crc32c"] = routing;
    result["content_crc32c"] = content;
    std::cout << result << std::endl;
  }

  // How long one sequence's steps take while documents are added.
  void DecodeBesideEncode(int threads, int documents_each) {
    constexpr int kMaxSteps = 4000;
    DocumentEncoder encoder(model_, tokenizer_);
    KvCache cache = model_.NewCache(256 + kMaxSteps);
    const std::vector<int32_t> prompt = SomeTokens(model_.config(), 256, 1);
    SequenceChunk chunk;
    chunk.tokens = prompt;
    chunk.cache = &cache;
    Check(model_.Forward({&chunk, 1}, nullptr).status());
    const int32_t token = 500;
    chunk.tokens = absl::MakeConstSpan(&token, 1);
    chunk.first_position = 256;
    std::atomic<bool> done = false;
    bench::Timing steps;
    const double seconds = bench::SecondsOf([&] {
      std::thread adder([&] {
        tokens_ = EncodeBy(encoder, threads, documents_each);
        done = true;
      });
      while (!done && steps.seconds.size() < kMaxSteps) {
        steps.seconds.push_back(bench::SecondsOf([&] {
          Check(model_.NextTokens({&chunk, 1}, nullptr).status());
        }));
      }
      adder.join();
    });
    std::cout << json{{"what", "decode beside encode"},
                      {"backend", model_.backend().name()},
                      {"callers", threads},
                      {"encode_tokens_per_s", static_cast<double>(tokens_) / seconds},
                      {"steps", steps.seconds.size()},
                      {"step_ms", steps.median() * 1e3},
                      {"step_ms_p90", steps.Quantile(0.9) * 1e3}}
              << std::endl;
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
  // Of about 600 tokens.
  std::string Text() const {
    std::string text;
    while (tokenizer_.Encode(std::string_view(text))->size() < 560) {
      for (int i = 0; i < 40; ++i) text += " word" + std::to_string(text.size() % 997);
    }
    return text;
  }

  std::vector<rpc::EncodedPart> EncodeOne(DocumentEncoder& encoder, int64_t reference) const {
    rpc::BankSpec bank;
    const MemoryConfig& memory = model_.config().memory;
    bank.routing = model_.config().Routing();
    bank.routing_chunk_tokens = memory.routing_chunk_tokens;
    bank.content_chunk_tokens = memory.content_chunk_tokens;
    bank.routing_dtype = bank.content_dtype = DType::kBFloat16;
    const ReferencedText part{reference, text_};
    auto parts = encoder.Encode({}, bank, {&part, 1});
    Check(parts.status());
    return *std::move(parts);
  }

  // Returns the tokens encoded.
  int64_t EncodeBy(DocumentEncoder& encoder, int threads, int documents_each) const {
    std::atomic<int64_t> tokens{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < threads; ++t) {
      callers.emplace_back([&, t] {
        for (int i = 0; i < documents_each; ++i) {
          tokens += EncodeOne(encoder, t * 1000 + i).front().num_tokens;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    return tokens;
  }

  void AwaitBackend() const {
    char byte;
    model_.backend().Copy(&byte, probe_.data(), 1);
  }

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
  const std::string text_ = Text();
  int64_t tokens_ = 0;  // of the last encoding
  const kernels::Buffer probe_ = *model_.backend().Allocate(1);
};

int Main(const std::string& backend_name, const std::string& tokenizer_file,
         const std::string& model_name, int runs, const std::string& parts) {
  const auto wanted = [&](const char* part) { return parts.find(part) != std::string::npos; };
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
    if (wanted("decode") && (!small || batch <= 8)) bench.Decode(batch, small ? 32 : 256);
  }
  if (wanted("forward")) {
    bench.Forward(small ? 2 : 16, small ? 64 : 512);
    bench.Forward(small ? 4 : 14, small ? 33 : 576);
    bench.Forward(1, 182);
  }
  for (const int callers : {4, 48}) {
    if (wanted("encode")) bench.Encode(small ? callers / 2 : callers, small ? 1 : 4);
  }
  if (wanted("beside")) bench.DecodeBesideEncode(small ? 2 : 48, small ? 1 : 8);
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
                                 argument(3, "msa-tiny"), std::atoi(argument(4, "5")),
                                 argument(5, "decode,forward,encode,beside"));
}

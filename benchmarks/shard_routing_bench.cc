// Routing as a memory node does it, over a made-up bank of MSA-4B's shapes: LocalShard::Route for
// every layer, on one backend or on several GPUs, beside the rate at which they copy their memory.
//   shard_routing_bench [--tokens N] [--keys bf16|int8|…] [--backend NAME] [--gpus 0,1]
//                       [--rows 1,8,32] [--repeats N] [--candidates 0,64,128]
// Prints one JSON object. `answers` is a checksum of what was selected: the same for every number
// of GPUs. Candidates other than 0 are of coarse scans, over codes made after the bank was loaded;
// `same` is the share of layer-questions that selected what the exact scan (0, first) did.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "kernels/group_backend.h"
#include "memory_node/shard.h"
#include "memory_node/synthetic_store.h"
#include "nlohmann/json.hpp"

namespace msa {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int kDocumentTokens = 576;
constexpr int kTopK = 16;

double Seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<int> Numbers(const std::string& list) {
  std::vector<int> numbers;
  for (absl::string_view text : absl::StrSplit(list, ',')) {
    numbers.emplace_back();
    MSA_CHECK(absl::SimpleAtoi(text, &numbers.back()));
  }
  return numbers;
}

rpc::BankSpec MakeBank(DType keys) {
  rpc::BankSpec bank;
  bank.name = "bench";
  bank.uid = 4711;
  bank.model_fingerprint = "0123456789abcdef0123456789abcdef";
  for (int layer = 18; layer < 36; ++layer) bank.router_layers.push_back(layer);
  bank.routing = {.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128};
  bank.routing_chunk_tokens = bank.content_chunk_tokens = 64;
  bank.routing_dtype = keys;
  bank.content_dtype = DType::kBFloat16;
  bank.part_tokens = 1024;
  return bank;
}

// Bytes read and written a second by a copy of a member's memory to itself.
double CopyRate(const kernels::Backend& member) {
  constexpr size_t kBytes = size_t{1} << 30;
  const auto from = member.Allocate(kBytes), to = member.Allocate(kBytes);
  if (!from.ok() || !to.ok()) return 0;
  char last = 0;
  std::vector<double> seconds;
  for (int i = 0; i < 5; ++i) {
    const auto start = Clock::now();
    for (int j = 0; j < 4; ++j) member.Copy(to->data(), from->data(), kBytes);
    member.Copy(&last, to->as<char>(kBytes - 1), 1);  // waits
    seconds.push_back(Seconds(start) / 4);
  }
  return 2 * kBytes / Median(seconds);
}

class Bench {
 public:
  Bench(memory_node::LocalShard& shard, const rpc::BankSpec& bank) : shard_(shard), bank_(bank) {
    snapshot_ = shard.OpenSnapshot({}, bank.name, absl::Hours(1))->id;
  }

  // Milliseconds of each layer; a checksum of what each selected goes into `answers`.
  std::vector<double> Question(int rows, int candidates, uint32_t seed,
                               std::vector<uint32_t>* answers) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1 / std::sqrt(128.0f));
    rpc::RouteRequest request;
    request.bank = bank_.name;
    request.snapshot_id = snapshot_;
    request.round = ++round_;
    request.top_k = kTopK;
    request.candidates = candidates;
    request.queries.resize(static_cast<size_t>(rows) * bank_.routing.query_width());
    std::vector<double> milliseconds;
    for (const int32_t layer : bank_.router_layers) {
      for (float& x : request.queries) x = normal(random);
      request.layer = layer;
      const auto start = Clock::now();
      const auto routed = shard_.Route({}, request);
      milliseconds.push_back(Seconds(start) * 1e3);
      if (!routed.ok()) {
        std::fprintf(stderr, "%s\n", routed.status().ToString().c_str());
        std::exit(1);
      }
      answers->push_back(0);
      for (const rpc::RoutedPart& part : *routed) {
        const std::string line =
            std::to_string(part.scored.reference) + " " + std::to_string(part.scored.score);
        answers->back() = answers->back() * 31 + Crc32c(line);
      }
    }
    return milliseconds;
  }

 private:
  memory_node::LocalShard& shard_;
  const rpc::BankSpec& bank_;
  uint64_t snapshot_ = 0;
  int32_t round_ = 0;
};

// `exact`: what the exact scan selected, a checksum a layer-question; filled in by that scan.
Json RunRows(Bench& bench, int rows, int candidates, int repeats, double floor_ms,
             std::vector<uint32_t>* exact) {
  std::vector<uint32_t> answers;
  std::vector<double> layers, questions;
  bench.Question(rows, candidates, 1, &answers);
  answers.clear();
  for (int i = 0; i < repeats; ++i) {
    const auto milliseconds = bench.Question(rows, candidates, 100 + i, &answers);
    double sum = 0;
    for (double ms : milliseconds) sum += ms;
    questions.push_back(sum);
    layers.insert(layers.end(), milliseconds.begin(), milliseconds.end());
  }
  if (candidates == 0) *exact = answers;
  uint32_t checksum = 0;
  int64_t same = 0;
  for (size_t i = 0; i < answers.size(); ++i) {
    checksum = checksum * 31 + answers[i];
    same += i < exact->size() && answers[i] == (*exact)[i];
  }
  const double median = Median(questions);
  return {{"rows", rows},
          {"candidates", candidates},
          {"layer_ms", Median(layers)},
          {"all_layers_ms", median},
          {"all_layers_ms_min", *std::min_element(questions.begin(), questions.end())},
          {"all_layers_ms_max", *std::max_element(questions.begin(), questions.end())},
          {"of_one_read_of_the_keys", floor_ms > 0 ? median / floor_ms : 0},
          {"selections", answers.size()},
          {"same", static_cast<double>(same) / static_cast<double>(answers.size())},
          {"answers", checksum}};
}

// Codes of all keys; the seconds that making them took.
double MakeCodes(memory_node::LocalShard& shard, const rpc::BankSpec& bank) {
  const auto start = Clock::now();
  const absl::Status made = shard.SetCoarse({}, bank.name, {.codes = true, .candidates = 128});
  if (!made.ok()) {
    std::fprintf(stderr, "%s\n", made.ToString().c_str());
    std::exit(1);
  }
  return Seconds(start);
}

int Main(std::map<std::string, std::string> flags) {
  const auto set = kernels::BackendSet::Make(flags["--backend"], {}, Numbers(flags["--gpus"]));
  const auto keys = ParseDType(flags["--keys"]);
  if (!set.ok() || !keys.ok()) {
    std::fprintf(stderr, "%s\n", (set.ok() ? keys.status() : set.status()).ToString().c_str());
    return 1;
  }
  double copy_rate = 0;
  for (int i = 0; i < set->size(); ++i) copy_rate += CopyRate(set->member(i));
  const rpc::BankSpec bank = MakeBank(*keys);
  const int64_t documents = std::stoll(flags["--tokens"]) / kDocumentTokens;
  memory_node::ShardOptions options;
  options.index.max_segment_bytes_per_layer = 64 << 20;
  const auto start = Clock::now();
  const auto shard = memory_node::LocalShard::Open(
      memory_node::MakeSyntheticStore({bank, documents, kDocumentTokens}), &set->memory(), options);
  if (!shard.ok()) {
    std::fprintf(stderr, "%s\n", shard.status().ToString().c_str());
    return 1;
  }
  const double load_seconds = Seconds(start);
  const auto stats = (*shard)->Stats({}, bank.name);
  // A pass only reads.
  const double floor_ms = stats->resident_key_bytes / copy_rate * 1e3;
  Json rows = Json::array();
  Bench bench(**shard, bank);
  const std::vector<int> candidates = Numbers(flags["--candidates"]);
  const bool coarse = candidates.back() > 0;
  const double codes_s = coarse ? MakeCodes(**shard, bank) : 0;
  const int64_t code_bytes = (*shard)->Stats({}, bank.name)->code_bytes;
  for (const int count : Numbers(flags["--rows"])) {
    std::vector<uint32_t> exact;
    for (const int of : candidates) {
      rows.push_back(RunRows(bench, count, of, std::stoi(flags["--repeats"]), floor_ms, &exact));
    }
  }
  const Json report = {{"benchmark", "shard_routing"},
                       {"backend", flags["--backend"]},
                       {"gpus", flags["--gpus"]},
                       {"tokens", documents * kDocumentTokens},
                       {"keys", flags["--keys"]},
                       {"key_bytes", stats->resident_key_bytes},
                       {"code_bytes", code_bytes},
                       {"codes_asked_s", codes_s},
                       {"segments", stats->num_segments},
                       {"load_s", load_seconds},
                       {"load_gb_per_s", stats->resident_key_bytes / load_seconds / 1e9},
                       {"copy_gb_per_s", copy_rate / 1e9},
                       {"one_read_of_all_layers_ms", floor_ms},
                       {"rescanned", (*shard)->Stats({}, bank.name)->rescanned_selections},
                       {"questions", std::move(rows)}};
  std::printf("%s\n", report.dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace msa

int main(int argc, char** argv) {
  std::map<std::string, std::string> flags = {
      {"--tokens", "1000000"}, {"--keys", "bf16"}, {"--backend", "cpu"}, {"--gpus", "0"},
      {"--rows", "1,8,32"},    {"--repeats", "5"}, {"--candidates", "0"}};
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!flags.contains(argv[i])) {
      std::fprintf(stderr, "unknown flag %s\n", argv[i]);
      return 2;
    }
    flags[argv[i]] = argv[i + 1];
  }
  return msa::Main(flags);
}

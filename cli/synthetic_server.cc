#include "cli/synthetic_server.h"

#include <unistd.h>

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/model_paths.h"
#include "cli/roles.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/model/synthetic_model.h"
#include "memory_node/synthetic_store.h"
#include "router/router.h"
#include "rpc/shard_map.h"

namespace msa::cli {
namespace {

constexpr int32_t kDocumentTokens = 576;  // 9 chunks of 64
constexpr double kDirectoryBytes = 800;   // a memory node keeps of each beside keys, measured
static_assert(kMaxSyntheticTokens / kDocumentTokens < 1'000'000'000, "ids have nine digits");

// What the router stands on.
struct Roles {
  explicit Roles(kernels::BackendSet set) : kernels(std::move(set)) {}

  kernels::BackendSet kernels;
  std::vector<std::unique_ptr<compute_node::Node>> nodes;
  std::unique_ptr<memory_node::LocalShard> shard;
};

absl::StatusOr<std::string> TokenizerFile(const std::string& given) {
  if (!given.empty()) return given;
  MSA_ASSIGN_OR_RETURN(const std::string model, FindModel(""));
  return model + "/tokenizer.json";
}

absl::StatusOr<std::unique_ptr<compute_node::Node>> MakeNode(const SyntheticOptions& options,
                                                             const kernels::Backend& kernels) {
  MSA_ASSIGN_OR_RETURN(compute_node::ModelConfig config,
                       compute_node::SyntheticConfig(options.model));
  MSA_ASSIGN_OR_RETURN(const std::string file, TokenizerFile(options.tokenizer));
  MSA_ASSIGN_OR_RETURN(auto tokenizer, compute_node::Tokenizer::Load(file));
  compute_node::NodeOptions node_options;
  node_options.max_sessions = options.max_sessions;
  node_options.max_waiting = 4 * options.max_sessions;
  MSA_ASSIGN_OR_RETURN(node_options.weights, ParseWeights(options.weights));
  MSA_ASSIGN_OR_RETURN(compute_node::ModelWeights weights,
                       compute_node::SyntheticWeights(config, kernels, node_options.weights));
  return compute_node::Node::Make(node_options, options.model, std::move(tokenizer),
                                  std::move(config), std::move(weights), kernels);
}

// One a GPU, at once: the numbers of a model this size take a while to be drawn.
absl::Status MakeNodes(const SyntheticOptions& options, Roles* roles) {
  const int count = roles->kernels.size();
  std::vector<absl::StatusOr<std::unique_ptr<compute_node::Node>>> made(count);
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] { made[i] = MakeNode(options, roles->kernels.member(i)); });
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& node : made) {
    MSA_RETURN_IF_ERROR(node.status());
    roles->nodes.push_back(*std::move(node));
  }
  return absl::OkStatus();
}

// Memory of the processor is given before it is there: the system would end the process, or
// another, while keys are loaded.
absl::Status CheckRoom(const kernels::Backend& kernels, const SyntheticOptions& options,
                       const memory_node::SyntheticDocuments& documents) {
  if (!kernels.memory_is_host()) return absl::OkStatus();
  const int32_t chunk = documents.bank.routing_chunk_tokens;
  const auto chunks = static_cast<double>((documents.tokens + chunk - 1) / chunk);
  const double keys =
      chunks * static_cast<double>(memory_node::ShapeOf(documents.bank).ChunkBytes());
  const double needed = static_cast<double>(documents.count) * (keys + kDirectoryBytes);
  const double there =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  if (needed <= there) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "a bank of %d tokens takes %.0f GB of memory, and this machine has %.0f: give "
      "fewer --tokens, smaller --keys or --backend cuda",
      options.tokens, needed / 1e9, there / 1e9));
}

absl::StatusOr<std::unique_ptr<memory_node::LocalShard>> MakeShard(
    const SyntheticOptions& options, rpc::BankSpec bank, const kernels::Backend* kernels) {
  bank.name = "default";
  bank.uid = 1;
  MSA_ASSIGN_OR_RETURN(bank.routing_dtype, ParseDType(options.keys));
  MSA_ASSIGN_OR_RETURN(bank.content_dtype, ParseDType(options.content));
  memory_node::SyntheticDocuments documents{bank, options.tokens / kDocumentTokens,
                                            kDocumentTokens};
  MSA_RETURN_IF_ERROR(CheckRoom(*kernels, options, documents));
  memory_node::ShardOptions shard_options;
  shard_options.index.max_segment_bytes_per_layer = 64 << 20;
  return memory_node::LocalShard::Open(memory_node::MakeSyntheticStore(documents), kernels,
                                       shard_options);
}

}  // namespace

absl::StatusOr<Connection> MakeSyntheticServer(const SyntheticOptions& options) {
  BackendFlags backend;
  backend.backend = options.backend;
  backend.gpus = options.gpus;
  MSA_ASSIGN_OR_RETURN(kernels::BackendSet kernels, backend.Make());
  const auto roles = std::make_shared<Roles>(std::move(kernels));
  absl::Time start = absl::Now();
  MSA_RETURN_IF_ERROR(MakeNodes(options, roles.get()));
  Log(LogLevel::kInfo, "made the model",
      {{"model", options.model}, {"seconds", SecondsSince(start)}});
  MSA_ASSIGN_OR_RETURN(const rpc::ModelInfo info, roles->nodes[0]->Info({}));
  start = absl::Now();
  MSA_ASSIGN_OR_RETURN(roles->shard,
                       MakeShard(options, info.default_bank, &roles->kernels.memory()));
  const double load_seconds = SecondsSince(start);
  Log(LogLevel::kInfo, "loaded the bank",
      {{"tokens", options.tokens}, {"keys", options.keys}, {"seconds", load_seconds}});
  router::RouterOptions router_options;
  router_options.max_sessions = 4 * options.max_sessions;
  auto router = std::make_unique<router::Router>(rpc::ShardMap::Embedded(),
                                                 std::vector<rpc::MemoryShard*>{roles->shard.get()},
                                                 std::vector<rpc::ComputeNode*>(), router_options);
  for (size_t i = 0; i < roles->nodes.size(); ++i) {
    router->AddComputeNode(StrCat("local-", i), roles->nodes[i].get());
    roles->nodes[i]->Attach(router.get(), {roles->shard.get()});
  }
  MSA_ASSIGN_OR_RETURN(const rpc::ShardStats stats, roles->shard->Stats({}, "default"));
  return Connection{
      .keeps = roles,
      .service = std::move(router),
      .reachable = [] { return true; },
      .about = StrCat(
          options.tokens, " tokens, ", options.keys, " keys resident on ", options.backend,
          options.backend == "cuda" ? StrCat(" (", options.gpus.gpus.value_or("0"), ")") : "", ", ",
          stats.resident_key_bytes, " bytes, loaded in ", load_seconds,
          " s; weights, keys and content are random, content is made up when it is "
          "fetched")};
}

}  // namespace msa::cli

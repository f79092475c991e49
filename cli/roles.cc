#include "cli/roles.h"

#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "cli/model_paths.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "rpc/remote.h"

namespace msa::cli {
absl::StatusOr<kernels::WeightFormat> ParseWeights(const std::string& name) {
  if (name == "f32") return kernels::WeightFormat::kFloat32;
  if (name == "bf16") return kernels::WeightFormat::kBFloat16;
  if (name == "int8") return kernels::WeightFormat::kInt8;
  return absl::InvalidArgumentError(StrCat("unknown weights '", name, "': use f32, bf16 or int8"));
}

void BackendFlags::AddFlags(FlagSet& flags) {
  flags.AddChoice("--backend", &backend, {"cpu", "cuda", "reference"}, "What to compute with");
  flags.AddBounded("--threads", &threads, 0, 1024, "Threads to compute with, 0 for one a core");
  gpus.AddFlags(flags);
}

absl::StatusOr<kernels::BackendSet> BackendFlags::Make() const {
  MSA_RETURN_IF_ERROR(gpus.CheckFor(backend));
  MSA_ASSIGN_OR_RETURN(const std::vector<int> numbers, gpus.Numbers());
  kernels::BackendOptions options;
  options.num_threads = threads;
  options.gpu_memory_bytes = int64_t{gpus.gpu_memory_mb} << 20;
  options.host_memory_bytes = int64_t{gpus.host_memory_mb} << 20;
  return kernels::BackendSet::Make(backend, options, numbers);
}

void ModelFlags::AddFlags(FlagSet& flags) {
  flags.Add("--model", &model,
            "Folder of Hugging Face files (default: models/smollm2-135m-instruct)");
  flags.Add("--adapter", &adapter,
            "Folder of routers and LoRA or whole weights, merged at load (default: MODEL-msa "
            "beside the model, else in models/)");
  flags.Add("--no-adapter", &no_adapter, "Use no adapter although there is one");
  flags.AddChoice("--weights", &weights, {"f32", "bf16", "int8"}, "Precision of the weights");
  flags.AddBounded("--content-cache-mb", &content_cache_mb, 0, 1 << 24,
                   "Memory for fetched blocks, MB");
  flags.AddBounded("--prefetch-layers", &prefetch_layers, 1, 512,
                   "Router layers whose blocks a document's first fetch brings");
  flags.AddBounded("--max-sessions", &max_sessions, 1, 65536,
                   "Questions answered at once; more wait");
  flags.AddBounded("--max-waiting", &max_waiting, 0, 1 << 20,
                   "Questions that may wait; more are refused");
}

absl::StatusOr<std::unique_ptr<compute_node::Node>> ModelFlags::LoadNode(
    const kernels::Backend& kernels) const {
  compute_node::NodeOptions options;
  MSA_ASSIGN_OR_RETURN(options.model_dir, FindModel(model));
  if (!no_adapter) options.adapter_dir = adapter.empty() ? FindAdapter(options.model_dir) : adapter;
  MSA_ASSIGN_OR_RETURN(options.weights, ParseWeights(weights));
  options.content_cache_bytes = static_cast<size_t>(content_cache_mb) << 20;
  options.prefetch_layers = prefetch_layers;
  options.max_sessions = max_sessions;
  options.max_waiting = max_waiting;
  const absl::Time start = absl::Now();
  MSA_ASSIGN_OR_RETURN(auto node, compute_node::Node::Load(options, kernels));
  MSA_ASSIGN_OR_RETURN(const rpc::ModelInfo info, node->Info({}));
  Log(LogLevel::kInfo, "loaded the model",
      {{"model", options.model_dir},
       {"adapter", options.adapter_dir.empty() ? "none" : options.adapter_dir},
       {"weights", weights},
       {"fingerprint", info.fingerprint},
       {"retrieval", info.retrieval_mode},
       {"seconds", SecondsSince(start)}});
  if (!info.has_trained_routers) {
    Log(LogLevel::kWarning,
        "the model has no trained routers: its W_q and W_k serve as routers, and find documents "
        "poorly; name an adapter with --adapter");
  }
  return node;
}

absl::StatusOr<std::vector<std::unique_ptr<compute_node::Node>>> ModelFlags::LoadNodes(
    const kernels::BackendSet& kernels) const {
  std::vector<absl::StatusOr<std::unique_ptr<compute_node::Node>>> loaded(kernels.size());
  std::vector<std::thread> threads;
  for (int i = 1; i < kernels.size(); ++i) {
    threads.emplace_back([&, i] { loaded[i] = LoadNode(kernels.member(i)); });
  }
  loaded[0] = LoadNode(kernels.member(0));
  for (std::thread& thread : threads) thread.join();
  std::vector<std::unique_ptr<compute_node::Node>> nodes;
  for (auto& node : loaded) {
    MSA_RETURN_IF_ERROR(node.status());
    nodes.push_back(*std::move(node));
  }
  return nodes;
}

void StoreFlags::AddFlags(FlagSet& flags) {
  flags.AddRequired("--data-dir", &data_dir, "Folder of the documents; made when missing");
  flags.AddBounded("--max-key-mb", &max_key_mb, 0, INT32_MAX,
                   "Memory for routing keys, MB; documents over it are refused (0: no limit)");
}

absl::StatusOr<std::unique_ptr<memory_node::DocumentStore>> StoreFlags::OpenStore() const {
  memory_node::RocksDbOptions options;
  options.path = data_dir;
  return memory_node::OpenRocksDbStore(options);
}

absl::StatusOr<std::unique_ptr<memory_node::LocalShard>> StoreFlags::OpenShard(
    std::unique_ptr<memory_node::DocumentStore> store, const kernels::Backend& kernels,
    const rpc::ShardPlace& place) const {
  const absl::Time start = absl::Now();
  memory_node::ShardOptions options;
  if (max_key_mb > 0) options.index.max_key_bytes = int64_t{max_key_mb} << 20;
  MSA_ASSIGN_OR_RETURN(auto shard,
                       memory_node::LocalShard::Open(std::move(store), &kernels, options));
  MSA_ASSIGN_OR_RETURN(const auto banks, shard->ListBanks({}));
  const bool filled = !banks.empty() || shard->damaged_banks() > 0;
  MSA_RETURN_IF_ERROR(ClaimPlace(data_dir, place, filled));
  Log(LogLevel::kInfo, "opened the store",
      {{"data_dir", data_dir},
       {"banks", banks.size()},
       {"damaged_banks", shard->damaged_banks()},
       {"seconds", SecondsSince(start)}});
  return shard;
}

std::vector<std::unique_ptr<rpc::MemoryShard>> MakeRemoteShards(const rpc::ShardMap& map,
                                                                const rpc::TlsFiles& tls) {
  std::vector<std::unique_ptr<rpc::MemoryShard>> shards;
  for (const rpc::Endpoint& shard : map.shards) {
    const rpc::ShardPlace place = map.PlaceOf(static_cast<int32_t>(shards.size()));
    shards.push_back(rpc::MakeRemoteMemoryShard({.address = shard.address,
                                                 .name = StrCat("shard '", shard.name, "'"),
                                                 .place = place,
                                                 .tls = tls}));
  }
  return shards;
}

std::vector<std::unique_ptr<rpc::BackupService>> MakeRemoteBackups(const rpc::ShardMap& map,
                                                                   const rpc::TlsFiles& tls) {
  std::vector<std::unique_ptr<rpc::BackupService>> backups;
  for (const rpc::Endpoint& shard : map.shards) {
    backups.push_back(rpc::MakeRemoteBackupService({.address = shard.address,
                                                    .name = StrCat("shard '", shard.name, "'"),
                                                    .data_connections = 1,
                                                    .tls = tls}));
  }
  return backups;
}

}  // namespace msa::cli

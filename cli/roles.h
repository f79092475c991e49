// The flags of each role and what they make: a model with its node, a store with its shard. Shared
// by `serve`, which plays every role, and the verbs that play one.
#ifndef MSA_CLI_ROLES_H_
#define MSA_CLI_ROLES_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/data_place.h"
#include "cli/flags.h"
#include "cli/gpu_flags.h"
#include "compute_node/node.h"
#include "kernels/backend.h"
#include "kernels/group_backend.h"
#include "memory_node/shard.h"
#include "rpc/backup_service.h"
#include "rpc/memory_shard.h"
#include "rpc/shard_map.h"
#include "rpc/tls.h"

namespace msa::cli {

// "f32", "bf16", "int8"; INVALID_ARGUMENT that lists them otherwise.
absl::StatusOr<kernels::WeightFormat> ParseWeights(const std::string& name);

// For log lines that say how long something took.
inline double SecondsSince(absl::Time start) { return absl::ToDoubleSeconds(absl::Now() - start); }

// What computes: the flags of a backend, its threads and its GPUs.
struct BackendFlags {
  std::string backend = "cpu";
  int32_t threads = 0;
  GpuFlags gpus;

  void AddFlags(FlagSet& flags);
  // A usage error for flags that do not fit together; else what BackendSet::Make says.
  absl::StatusOr<kernels::BackendSet> Make() const;
};

// A model and the node that runs it.
struct ModelFlags {
  std::string model;
  std::string adapter;
  bool no_adapter = false;
  std::string weights = "f32";
  int32_t content_cache_mb = 1024;
  int32_t prefetch_layers = 8;  // docs/decisions/0005
  int32_t max_sessions = 16;
  int32_t max_waiting = 256;
  int64_t max_questions() const { return int64_t{max_sessions} + max_waiting; }

  void AddFlags(FlagSet& flags);
  // Loads the model, says in the log which and what serves as its routers. `kernels` must outlive
  // the node.
  absl::StatusOr<std::unique_ptr<compute_node::Node>> LoadNode(
      const kernels::Backend& kernels) const;
  // One a backend of the set, each with weights of its own, loaded at once.
  absl::StatusOr<std::vector<std::unique_ptr<compute_node::Node>>> LoadNodes(
      const kernels::BackendSet& kernels) const;
};

// A data folder and the shard that serves it.
struct StoreFlags {
  std::string data_dir;
  int32_t max_key_mb = 0;

  void AddFlags(FlagSet& flags);
  // Takes the folder's lock; reads next to nothing yet.
  absl::StatusOr<std::unique_ptr<memory_node::DocumentStore>> OpenStore() const;
  // Loads the keys. FAILED_PRECONDITION when the folder was filled at another place of a cluster.
  // `kernels` must outlive the shard.
  absl::StatusOr<std::unique_ptr<memory_node::LocalShard>> OpenShard(
      std::unique_ptr<memory_node::DocumentStore> store, const kernels::Backend& kernels,
      const rpc::ShardPlace& place) const;
};

// The map's shards over gRPC, in its order, and the backups of their folders; and what those who
// use them take.
std::vector<std::unique_ptr<rpc::MemoryShard>> MakeRemoteShards(const rpc::ShardMap& map,
                                                                const rpc::TlsFiles& tls);
std::vector<std::unique_ptr<rpc::BackupService>> MakeRemoteBackups(const rpc::ShardMap& map,
                                                                   const rpc::TlsFiles& tls);
template <typename T>
std::vector<T*> Borrowed(const std::vector<std::unique_ptr<T>>& owned) {
  std::vector<T*> borrowed;
  for (const auto& one : owned) borrowed.push_back(one.get());
  return borrowed;
}

}  // namespace msa::cli

#endif  // MSA_CLI_ROLES_H_

// msa router: what clients and compute nodes call in a cluster. Holds no data.
#include "router/router.h"

#include <vector>

#include "absl/time/clock.h"
#include "cli/roles.h"
#include "cli/router_figures.h"
#include "cli/server_process.h"
#include "cli/server_verbs.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "router/backups.h"
#include "rpc/remote.h"
#include "rpc/shard_map.h"

namespace msa::cli {
namespace {

// How long a start waits for shards that are not up yet; they are asked again when they are used.
constexpr absl::Duration kRepairTimeout = absl::Seconds(5);
// More than a node takes unless it is told to: it is the node that says when it is full.
constexpr int64_t kQuestionsANode = 512;

class RouterVerb : public Verb {
 public:
  std::string_view name() const override { return "router"; }
  std::string_view help() const override { return "Serve a cluster's clients: holds no data"; }

  void AddFlags(FlagSet& flags) override {
    flags.AddRequired("--shard-map", &shard_map_, "File that names the cluster's processes");
    flags.AddBounded("--shard-timeout", &shard_timeout_s_, 0.001, 86400,
                     "Seconds a shard may take to answer");
    flags.AddBounded(
        "--encode-at-once", &encode_at_once_, 1, 1024,
        "Short documents that each compute node encodes at once: 160 where it has a GPU");
    process_.AddFlags(flags, "");
    process_.AddApiKeysFlag(flags);
  }

  absl::Status Run(Io&) override {
    MSA_ASSIGN_OR_RETURN(const rpc::ShardMap map, rpc::ShardMap::Load(shard_map_));
    if (map.router.empty()) {
      return absl::InvalidArgumentError(StrCat(shard_map_, ": \"router\" is missing"));
    }
    process_.SetListen(map.router);
    MSA_RETURN_IF_ERROR(process_.Prepare("router"));

    const auto shards = MakeRemoteShards(map, process_.tls());
    const auto folders = MakeRemoteBackups(map, process_.tls());
    std::vector<std::unique_ptr<rpc::ComputeNode>> nodes;
    for (const rpc::Endpoint& node : map.compute_nodes) {
      nodes.push_back(rpc::MakeRemoteComputeNode({.address = node.address,
                                                  .name = StrCat("compute node '", node.name, "'"),
                                                  .tls = process_.tls()}));
    }
    auto options = router::RouterOptions::ForNodes(static_cast<int>(map.compute_nodes.size()),
                                                   encode_at_once_);
    options.shard_timeout = absl::Seconds(shard_timeout_s_);
    const auto figures = MakeRouterFigures(process_.exporter(), map);
    options.observer = figures.get();
    router::Router router(map, Borrowed(shards), Borrowed(nodes), options);
    rpc::CallContext ctx;
    ctx.deadline = absl::Now() + kRepairTimeout;
    if (const absl::Status status = router.Repair(ctx); !status.ok()) {
      Log(LogLevel::kWarning,
          "serving although not every shard is up and where the map says, or not every bank is "
          "whole",
          {{"status", std::string(status.message())}});
    }

    rpc::GrpcServer::Builder builder(
        process_.options(kQuestionsANode * static_cast<int64_t>(map.compute_nodes.size())));
    builder.Add(static_cast<rpc::MemoryService*>(&router));
    builder.Add(static_cast<rpc::SessionRouter*>(&router));
    router::ClusterBackups backups(map, Borrowed(folders));
    builder.Add(&backups);
    return process_.Serve(
        builder, {{"shards", map.shards.size()}, {"compute_nodes", map.compute_nodes.size()}});
  }

 private:
  std::string shard_map_;
  double shard_timeout_s_ = 30;
  int32_t encode_at_once_ = 4;
  ServerProcess process_;
};

}  // namespace

std::unique_ptr<Verb> MakeRouterVerb() { return std::make_unique<RouterVerb>(); }

}  // namespace msa::cli

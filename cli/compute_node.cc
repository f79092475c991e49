// msa compute-node: encodes documents and answers questions for a cluster.
#include <vector>

#include "cli/api_key_flag.h"
#include "cli/figures.h"
#include "cli/node_figures.h"
#include "cli/roles.h"
#include "cli/server_process.h"
#include "cli/server_verbs.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "rpc/remote.h"
#include "rpc/shard_map.h"

namespace msa::cli {
namespace {

class ComputeNodeVerb : public Verb {
 public:
  std::string_view name() const override { return "compute-node"; }
  std::string_view help() const override {
    return "Encode documents and answer questions for a cluster";
  }

  void AddFlags(FlagSet& flags) override {
    flags.AddRequired("--shard-map", &shard_map_, "File that names the cluster's processes");
    flags.AddRequired("--name", &name_, "This node's name in the map; its address is listened on");
    model_.AddFlags(flags);
    backend_.AddFlags(flags);
    process_.AddFlags(flags, "");
    api_key_.AddFlags(flags);
  }

  absl::Status Run(Io&) override {
    MSA_ASSIGN_OR_RETURN(const rpc::ShardMap map, rpc::ShardMap::Load(shard_map_));
    MSA_ASSIGN_OR_RETURN(const int32_t index, map.FindComputeNode(name_));
    if (map.router.empty()) {
      return absl::InvalidArgumentError(StrCat(shard_map_, ": \"router\" is missing"));
    }
    process_.SetListen(map.compute_nodes[static_cast<size_t>(index)].address);
    MSA_RETURN_IF_ERROR(process_.Prepare("compute node"));
    rpc::RemoteOptions at_router{
        .address = map.router, .name = "the router", .tls = process_.tls()};
    MSA_ASSIGN_OR_RETURN(at_router.api_key, api_key_.Read());
    MSA_RETURN_IF_ERROR(rpc::CheckApiKeyTravels(at_router));
    MSA_ASSIGN_OR_RETURN(const auto kernels, backend_.Make());
    if (kernels.size() > 1) {
      return absl::InvalidArgumentError(
          "a compute node uses one GPU: start one for each, with an entry of its own in the map");
    }
    const auto node_figures = MakeNodeFigures(process_.exporter());
    MSA_ASSIGN_OR_RETURN(const auto node, model_.LoadNode(kernels.member(0)));

    const auto router = rpc::MakeRemoteSessionRouter(at_router);
    const auto shards = MakeRemoteShards(map, process_.tls());
    std::vector<std::string> names;
    for (const rpc::Endpoint& shard : map.shards) names.push_back(shard.name);
    node->Attach(router.get(), Borrowed(shards), names);
    node->Observe(node_figures.get());

    process_.WatchHealth([&] { return kernels.member(0).Health(); });
    process_.WatchFigures([&] { return FiguresOf({node.get()}); });
    rpc::GrpcServer::Builder builder(process_.options(model_.max_questions()));
    builder.Add(node.get());
    return process_.Serve(builder, {{"node", name_}});
  }

 private:
  std::string shard_map_;
  std::string name_;
  ModelFlags model_;
  BackendFlags backend_;
  ServerProcess process_;
  ApiKeyFlag api_key_;
};

}  // namespace

std::unique_ptr<Verb> MakeComputeNodeVerb() { return std::make_unique<ComputeNodeVerb>(); }

}  // namespace msa::cli

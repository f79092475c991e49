// msa memory-node: one shard's documents.
#include <utility>

#include "cli/figures.h"
#include "cli/roles.h"
#include "cli/server_process.h"
#include "cli/server_verbs.h"
#include "common/status_macros.h"
#include "memory_node/backups.h"
#include "rpc/shard_map.h"

namespace msa::cli {
namespace {

class MemoryNodeVerb : public Verb {
 public:
  std::string_view name() const override { return "memory-node"; }
  std::string_view help() const override { return "Serve one shard of a cluster"; }

  void AddFlags(FlagSet& flags) override {
    flags.AddRequired("--shard-map", &shard_map_, "File that names the cluster's processes");
    flags.AddRequired("--name", &name_, "This shard's name in the map; its address is listened on");
    store_.AddFlags(flags);
    backend_.AddFlags(flags);
    process_.AddFlags(flags, "");
  }

  absl::Status Run(Io&) override {
    MSA_ASSIGN_OR_RETURN(const rpc::ShardMap map, rpc::ShardMap::Load(shard_map_));
    MSA_ASSIGN_OR_RETURN(const int32_t index, map.FindShard(name_));
    process_.SetListen(map.shards[static_cast<size_t>(index)].address);
    MSA_RETURN_IF_ERROR(process_.Prepare("memory node"));
    MSA_ASSIGN_OR_RETURN(const auto kernels, backend_.Make());
    MSA_ASSIGN_OR_RETURN(auto store, store_.OpenStore());
    const rpc::ShardPlace place = map.PlaceOf(index);
    MSA_ASSIGN_OR_RETURN(const auto shard,
                         store_.OpenShard(std::move(store), kernels.memory(), place));
    process_.WatchHealth([&] { return kernels.memory().Health(); });
    process_.WatchFigures([&] { return FiguresOf(*shard); });
    rpc::GrpcServer::Builder builder(process_.options());
    builder.Add(shard.get(), place);
    memory_node::FolderBackups backups(&shard->store(), store_.data_dir, {kPlaceFile});
    builder.Add(&backups);
    return process_.Serve(builder, {{"shard", name_}});
  }

 private:
  std::string shard_map_;
  std::string name_;
  BackendFlags backend_;
  StoreFlags store_;
  ServerProcess process_;
};

}  // namespace

std::unique_ptr<Verb> MakeMemoryNodeVerb() { return std::make_unique<MemoryNodeVerb>(); }

}  // namespace msa::cli

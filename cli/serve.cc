// msa serve: every role in one process, data in one folder, no other server.
#include <utility>

#include "cli/figures.h"
#include "cli/node_figures.h"
#include "cli/roles.h"
#include "cli/router_figures.h"
#include "cli/server_process.h"
#include "cli/server_verbs.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "memory_node/backups.h"
#include "router/router.h"
#include "rpc/shard_map.h"

namespace msa::cli {
namespace {

class ServeVerb : public Verb {
 public:
  std::string_view name() const override { return "serve"; }
  std::string_view help() const override {
    return "Serve a folder of documents: all in one process";
  }

  void AddFlags(FlagSet& flags) override {
    store_.AddFlags(flags);
    model_.AddFlags(flags);
    backend_.AddFlags(flags);
    process_.AddFlags(flags, "127.0.0.1:7070");
    process_.AddApiKeysFlag(flags);
  }

  absl::Status Run(Io&) override {
    MSA_RETURN_IF_ERROR(process_.Prepare("msa"));
    const auto node_figures = MakeNodeFigures(process_.exporter());
    MSA_ASSIGN_OR_RETURN(const auto kernels, backend_.Make());
    // The folder first: a lock held by another process is told before a model is loaded. The
    // weights before the keys: those have another place to go when a GPU is full.
    MSA_ASSIGN_OR_RETURN(auto store, store_.OpenStore());
    MSA_ASSIGN_OR_RETURN(const auto nodes, model_.LoadNodes(kernels));
    MSA_ASSIGN_OR_RETURN(const auto shard,
                         store_.OpenShard(std::move(store), kernels.memory(), {}));
    const rpc::ShardMap map = rpc::ShardMap::Embedded();
    auto options = kernels.memory().memory_is_host()
                       ? router::RouterOptions()
                       : router::RouterOptions::ForNodes(static_cast<int>(nodes.size()),
                                                         router::RouterOptions::kAtOnceOnADevice);
    const auto router_figures = MakeRouterFigures(process_.exporter(), map);
    options.observer = router_figures.get();
    router::Router router(map, {shard.get()}, {}, options);
    for (size_t i = 0; i < nodes.size(); ++i) {
      router.AddComputeNode(nodes.size() == 1 ? "local" : StrCat("local-", i), nodes[i].get());
      nodes[i]->Attach(&router, {shard.get()});
      nodes[i]->Observe(node_figures.get());
    }
    MSA_RETURN_IF_ERROR(router.Repair({}));

    process_.WatchHealth([&] { return kernels.memory().Health(); });
    process_.WatchFigures([&] {
      std::vector<monitoring::Figure> figures = FiguresOf(*shard);
      for (monitoring::Figure& figure : FiguresOf(Borrowed(nodes))) {
        figures.push_back(std::move(figure));
      }
      return figures;
    });
    rpc::GrpcServer::Builder builder(
        process_.options(model_.max_questions() * static_cast<int64_t>(nodes.size())));
    builder.Add(static_cast<rpc::MemoryService*>(&router));
    memory_node::FolderBackups backups(&shard->store(), store_.data_dir, {kPlaceFile});
    builder.Add(&backups);
    return process_.Serve(builder, {{"data_dir", store_.data_dir}});
  }

 private:
  StoreFlags store_;
  ModelFlags model_;
  BackendFlags backend_;
  ServerProcess process_;
};

}  // namespace

std::unique_ptr<Verb> MakeServeVerb() { return std::make_unique<ServeVerb>(); }

}  // namespace msa::cli

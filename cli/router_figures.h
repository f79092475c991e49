// What the router of this process counts for Prometheus.
#ifndef MSA_CLI_ROUTER_FIGURES_H_
#define MSA_CLI_ROUTER_FIGURES_H_

#include <memory>
#include <vector>

#include "monitoring/exporter.h"
#include "router/observer.h"
#include "rpc/shard_map.h"

namespace msa::cli {

// By shards' names in the map. Thread-safe.
class RouterFigures : public router::Observer {
 public:
  RouterFigures(monitoring::Exporter& exporter, const rpc::ShardMap& map);

  void OnShardAsked(int shard, absl::StatusCode code, absl::Duration took) override;
  void OnDocument(absl::StatusCode code) override;

 private:
  struct Shard {
    monitoring::CodeCounter& asked;
    monitoring::Histogram& took;
  };
  std::vector<Shard> shards_;
  monitoring::CodeCounter& documents_;
};

// Null without an exporter: nobody counts.
std::unique_ptr<RouterFigures> MakeRouterFigures(monitoring::Exporter* exporter,
                                                 const rpc::ShardMap& map);

}  // namespace msa::cli

#endif  // MSA_CLI_ROUTER_FIGURES_H_

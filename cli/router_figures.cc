#include "cli/router_figures.h"

namespace msa::cli {

RouterFigures::RouterFigures(monitoring::Exporter& exporter, const rpc::ShardMap& map)
    : documents_(
          exporter.AddCodeCounter({"msa_document_adds_total",
                                   "Documents that clients sent, by the code of their result"})) {
  for (const rpc::Endpoint& shard : map.shards) {
    shards_.push_back(
        {exporter.AddCodeCounter({"msa_shard_requests_total",
                                  "Times the router asked a shard, by how that ended",
                                  {{"shard", shard.name}}}),
         exporter.AddHistogram({"msa_shard_request_seconds",
                                "How long the router waited for a shard, failures included",
                                {{"shard", shard.name}}})});
  }
}

void RouterFigures::OnShardAsked(int shard, absl::StatusCode code, absl::Duration took) {
  const Shard& its = shards_[static_cast<size_t>(shard)];
  its.asked.Count(code);
  its.took.Observe(took);
}

void RouterFigures::OnDocument(absl::StatusCode code) { documents_.Count(code); }

std::unique_ptr<RouterFigures> MakeRouterFigures(monitoring::Exporter* exporter,
                                                 const rpc::ShardMap& map) {
  return exporter == nullptr ? nullptr : std::make_unique<RouterFigures>(*exporter, map);
}

}  // namespace msa::cli

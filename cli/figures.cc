#include "cli/figures.h"

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "cli/store_figures.h"

namespace msa::cli {
namespace {

using monitoring::Figure;
using monitoring::Sample;
using Kind = Figure::Kind;

constexpr absl::Duration kShardTimeout = absl::Seconds(5);

struct StatsField {
  const char* name;
  const char* help;
  Kind kind;
  int64_t rpc::ShardStats::*value;
};

constexpr StatsField kOfBank[] = {
    {"msa_documents", "Documents", Kind::kGauge, &rpc::ShardStats::num_documents},
    {"msa_parts", "Parts of documents", Kind::kGauge, &rpc::ShardStats::num_parts},
    {"msa_tokens", "Tokens of documents", Kind::kGauge, &rpc::ShardStats::num_tokens},
    {"msa_chunks", "Chunks with a routing key", Kind::kGauge, &rpc::ShardStats::num_chunks},
    {"msa_routing_key_bytes", "Routing keys in memory", Kind::kGauge,
     &rpc::ShardStats::resident_key_bytes},
    {"msa_code_bytes", "Codes of coarse scans in memory, beside the keys", Kind::kGauge,
     &rpc::ShardStats::code_bytes},
    {"msa_segments", "Segments of the routing index", Kind::kGauge, &rpc::ShardStats::num_segments},
    {"msa_dead_parts", "Parts deleted or replaced and not compacted yet", Kind::kGauge,
     &rpc::ShardStats::dead_parts},
    {"msa_open_snapshots", "Snapshots that sessions hold", Kind::kGauge,
     &rpc::ShardStats::open_snapshots},
    {"msa_corrupt_records_total", "Records found damaged since the start, which are not served",
     Kind::kCounter, &rpc::ShardStats::corrupt_records},
};

constexpr StatsField kOfStore[] = {
    {"msa_store_bytes", "The whole store on disk", Kind::kGauge, &rpc::ShardStats::disk_bytes},
    {"msa_host_tier_bytes", "Keys and blocks in pinned memory, for which no GPU had room",
     Kind::kGauge, &rpc::ShardStats::host_tier_bytes},
};

constexpr std::pair<const char*, int64_t rpc::ShardStats::*> kScans[] = {
    {"rounded", &rpc::ShardStats::rounded_selections},
    {"rescanned", &rpc::ShardStats::rescanned_selections},
    {"coarse", &rpc::ShardStats::coarse_selections},
};

Sample Of(std::vector<std::pair<std::string, std::string>> labels, int64_t value) {
  return {std::move(labels), static_cast<double>(value)};
}

std::vector<Figure> OfBanks(rpc::MemoryShard& shard) {
  rpc::CallContext ctx;
  ctx.deadline = absl::Now() + kShardTimeout;
  const auto banks = shard.ListBanks(ctx);
  if (!banks.ok()) return {};
  std::vector<rpc::ShardStats> all;
  for (const rpc::BankState& bank : *banks) {
    auto stats = shard.Stats(ctx, bank.spec.name);
    if (stats.ok()) all.push_back(*std::move(stats));
  }
  std::vector<Figure> figures;
  for (const StatsField& field : kOfBank) {
    Figure& figure = figures.emplace_back(Figure{field.name, field.help, field.kind, {}});
    for (const rpc::ShardStats& stats : all) {
      figure.samples.push_back(Of({{"bank", stats.spec.name}}, stats.*field.value));
    }
  }
  Figure& scans = figures.emplace_back(
      Figure{"msa_selections_total",
             "Selections and ranks since the start that were not one exact scan: proven from "
             "rounded scores, scanned again since those could not tell, by codes",
             Kind::kCounter,
             {}});
  for (const rpc::ShardStats& stats : all) {
    for (const auto& [scan, value] : kScans) {
      scans.samples.push_back(Of({{"bank", stats.spec.name}, {"scan", scan}}, stats.*value));
    }
  }
  for (const StatsField& field : kOfStore) {
    Figure& figure = figures.emplace_back(Figure{field.name, field.help, field.kind, {}});
    if (!all.empty()) figure.samples.push_back(Of({}, all[0].*field.value));
  }
  return figures;
}

}  // namespace

std::vector<Figure> FiguresOf(memory_node::LocalShard& shard) {
  std::vector<Figure> figures = OfBanks(shard);
  if (const auto usage = shard.store_usage()) {
    for (Figure& figure : FiguresOf(*usage)) figures.push_back(std::move(figure));
  }
  return figures;
}

std::vector<Figure> FiguresOf(const std::vector<compute_node::Node*>& nodes) {
  compute_node::Node::Usage sum;
  for (const compute_node::Node* node : nodes) {
    const compute_node::Node::Usage usage = node->usage();
    sum.running += usage.running;
    sum.waiting += usage.waiting;
    sum.cache.bytes += usage.cache.bytes;
    sum.cache.hits += usage.cache.hits;
    sum.cache.misses += usage.cache.misses;
  }
  return {
      {"msa_questions_running", "Questions being answered", Kind::kGauge, {Of({}, sum.running)}},
      {"msa_questions_waiting",
       "Questions that wait for a place",
       Kind::kGauge,
       {Of({}, sum.waiting)}},
      {"msa_content_cache_bytes",
       "Blocks of documents kept",
       Kind::kGauge,
       {Of({}, static_cast<int64_t>(sum.cache.bytes))}},
      {"msa_content_cache_lookups_total",
       "Blocks looked for, kept or not",
       Kind::kCounter,
       {Of({{"result", "hit"}}, sum.cache.hits), Of({{"result", "miss"}}, sum.cache.misses)}},
  };
}

}  // namespace msa::cli

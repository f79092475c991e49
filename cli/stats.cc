// msa stats: what a bank holds, shard by shard.
#include <algorithm>
#include <ostream>

#include "absl/strings/str_format.h"
#include "cli/client_verbs.h"
#include "cli/coarse.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

Json ShardJson(const rpc::ShardStatsEntry& entry) {
  Json json = {{"shard", entry.shard}};
  if (entry.status.ok()) {
    json.update(ToJson(entry.stats));
  } else {
    json["error"] = ToJson(entry.status);
  }
  return json;
}

void PrintShard(const rpc::ShardStatsEntry& entry, std::ostream& out) {
  if (!entry.status.ok()) {
    out << absl::StrFormat("%-16s does not answer: %s\n", entry.shard, entry.status.message());
    return;
  }
  const rpc::ShardStats& s = entry.stats;
  out << absl::StrFormat("%-16s %9s %9s %12s %10s %9.1f %9.1f %8d %6d %7d\n", entry.shard,
                         WithCommas(s.num_documents), WithCommas(s.num_parts),
                         WithCommas(s.num_tokens), WithCommas(s.num_chunks),
                         s.resident_key_bytes / 1e6, s.disk_bytes / 1e6, s.num_segments,
                         s.dead_parts, s.corrupt_records);
  if (s.host_tier_bytes > 0) {
    out << absl::StrFormat("%-16s %.1f MB of keys and blocks are in pinned memory: GPUs are full\n",
                           "", s.host_tier_bytes / 1e6);
  }
}

// Once for the bank: its shards have one state, unless a call that set it failed on some.
void PrintCoarse(const rpc::BankStats& stats, std::ostream& out) {
  const rpc::ShardStats* first = nullptr;
  int64_t num_parts = 0, next_reference = 0, code_bytes = 0;
  bool differ = false;
  for (const rpc::ShardStatsEntry& entry : stats.shards) {
    if (!entry.status.ok()) continue;
    num_parts += entry.stats.num_parts;
    code_bytes += entry.stats.code_bytes;
    next_reference = std::max(next_reference, entry.stats.next_reference);
    if (first == nullptr) first = &entry.stats;
    differ = differ || !(entry.stats.coarse == first->coarse);
  }
  if (first == nullptr || (first->coarse == rpc::CoarseState() && !differ)) return;
  out << Describe(first->coarse);
  if (code_bytes > 0) out << absl::StrFormat("; codes take %.1f MB", code_bytes / 1e6);
  if (first->coarse.selections > 0) {
    out << absl::StrFormat("; %.0f %% of the parts were added since",
                           100 * AddedSince(first->coarse, num_parts, next_reference));
  }
  out << (differ ? "; shards differ, calibrate again\n" : "\n");
}

class StatsVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "stats"; }
  std::string_view help() const override { return "Show what a bank holds, shard by shard"; }

 protected:
  void AddVerbFlags(FlagSet&) override {}

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    MSA_ASSIGN_OR_RETURN(const rpc::BankStats stats, service.Stats(NewCall(), bank()));
    if (json()) {
      Json shards = Json::array();
      for (const rpc::ShardStatsEntry& entry : stats.shards) shards.push_back(ShardJson(entry));
      io.out << Dump({{"bank", ToJson(stats.spec)}, {"shards", std::move(shards)}}) << "\n";
      return absl::OkStatus();
    }
    io.out << "bank " << stats.spec.name << ", model " << stats.spec.model_name << " ("
           << stats.spec.model_fingerprint << "), keys " << DTypeName(stats.spec.routing_dtype)
           << " of " << stats.spec.routing_chunk_tokens << " tokens, content "
           << DTypeName(stats.spec.content_dtype) << " of " << stats.spec.content_chunk_tokens
           << " tokens\n";
    io.out << absl::StrFormat("%-16s %9s %9s %12s %10s %9s %9s %8s %6s %7s\n", "SHARD", "DOCUMENTS",
                              "PARTS", "TOKENS", "CHUNKS", "KEYS MB", "DISK MB", "SEGMENTS", "DEAD",
                              "CORRUPT");
    for (const rpc::ShardStatsEntry& entry : stats.shards) PrintShard(entry, io.out);
    PrintCoarse(stats, io.out);
    return absl::OkStatus();
  }
};

}  // namespace

std::unique_ptr<Verb> MakeStatsVerb(const Connector& connect) {
  return std::make_unique<StatsVerb>(connect);
}

}  // namespace msa::cli

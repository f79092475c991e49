// LocalShard's answers to questions: snapshots, routing, ranking, blocks.
#include <utility>
#include <vector>

#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "memory_node/put_batch.h"
#include "memory_node/request_checks.h"
#include "memory_node/selection.h"
#include "memory_node/shard.h"
#include "memory_node/validation.h"
#include "rpc/caller.h"

namespace msa::memory_node {
namespace {

absl::Status NoCodes(const rpc::BankSpec& spec) {
  return absl::FailedPreconditionError(
      StrCat("bank '", spec.name, "' keeps no codes for coarse scans; calibrate it first"));
}

}  // namespace

absl::StatusOr<rpc::Snapshot> LocalShard::OpenSnapshot(const rpc::CallContext& ctx,
                                                       const std::string& bank_name,
                                                       absl::Duration ttl) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, bank_name));
  if (ttl <= absl::ZeroDuration() || ttl > options_.max_snapshot_ttl) {
    return absl::InvalidArgumentError(StrCat("a snapshot's time to live is above 0 and at most ",
                                             absl::FormatDuration(options_.max_snapshot_ttl)));
  }
  snapshots_.Expire();
  rpc::Snapshot snapshot;
  MSA_ASSIGN_OR_RETURN(snapshot.id, snapshots_.Open(bank, ttl, &snapshot.sequence));
  if (bank->deleted()) {
    snapshots_.Close(snapshot.id);
    return absl::NotFoundError(StrCat("bank '", bank_name, "' was deleted meanwhile"));
  }
  snapshot.num_parts = bank->index().CountVisible(snapshot.sequence);
  return snapshot;
}

absl::Status LocalShard::CloseSnapshot(const rpc::CallContext& ctx, uint64_t snapshot_id) {
  snapshots_.Close(snapshot_id);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<rpc::RoutedPart>> LocalShard::Route(const rpc::CallContext& ctx,
                                                               const rpc::RouteRequest& request) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, request.bank));
  const rpc::BankSpec& spec = bank->spec();
  const int layer_index = LayerIndex(spec, request.layer);
  if (layer_index < 0) return UnknownLayer(spec, request.layer);
  MSA_RETURN_IF_ERROR(CheckRange("top_k", request.top_k, 1, kMaxTopK));
  MSA_RETURN_IF_ERROR(CheckRange("round", request.round, 0, INT32_MAX));
  MSA_RETURN_IF_ERROR(CheckRange("number of candidates", request.candidates, 0, kMaxCandidates));
  if (request.candidates > 0 && !bank->coarse().codes) return NoCodes(spec);
  MSA_RETURN_IF_ERROR(ValidateQueries(spec, request.queries));
  MSA_ASSIGN_OR_RETURN(const auto snapshot, snapshots_.Use(request.snapshot_id, *bank));
  {
    // The round before is forgotten now: its scores are memory that this one may need.
    absl::MutexLock lock(&snapshot->mutex);
    MSA_RETURN_IF_ERROR(snapshot->sums.Begin(request.round));
  }
  MSA_ASSIGN_OR_RETURN(PartScores scores,
                       scans_.Score(ctx, {.index = &bank->index(),
                                          .shape = &spec.routing,
                                          .layer_index = layer_index,
                                          .queries = &request.queries,
                                          .candidates = request.candidates,
                                          .loose = bank->selections().loose.allowed()}));
  MSA_ASSIGN_OR_RETURN(auto routed, SelectBest(*backend_, &scores, snapshot->sequence,
                                               request.top_k, bank->selections()));
  absl::MutexLock lock(&snapshot->mutex);
  MSA_RETURN_IF_ERROR(snapshot->sums.Begin(request.round));  // a later one may have begun
  snapshot->sums.Add(scores, bank->index().num_slots());
  return routed;
}

absl::StatusOr<std::vector<rpc::RankedPart>> LocalShard::Rank(const rpc::CallContext& ctx,
                                                              const rpc::RankRequest& request) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, request.bank));
  MSA_RETURN_IF_ERROR(CheckRange("limit", request.limit, 1, kMaxRankLimit));
  MSA_RETURN_IF_ERROR(
      CheckRange("number of excluded references", request.exclude.size(), 0, kMaxRankLimit));
  MSA_ASSIGN_OR_RETURN(const auto snapshot, snapshots_.Use(request.snapshot_id, *bank));
  absl::MutexLock lock(&snapshot->mutex);
  MSA_ASSIGN_OR_RETURN(
      const auto parts,
      snapshot->sums.Rank(*backend_, request.round, bank->index().View(), snapshot->sequence,
                          {request.limit, request.one_per_document, request.exclude},
                          bank->selections()));
  std::vector<rpc::RankedPart> ranked;
  for (const ScoredPart& part : parts) ranked.push_back({part, 0});
  return ranked;
}

absl::Status LocalShard::FetchBlocks(const rpc::CallContext& ctx, const rpc::FetchRequest& request,
                                     const std::function<absl::Status(rpc::FetchedBlock)>& sink) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, request.bank));
  MSA_RETURN_IF_ERROR(
      CheckRange("number of references", request.references.size(), 0, kMaxRankLimit));
  MSA_RETURN_IF_ERROR(
      CheckRange("number of layers", request.layers.size(), 0, bank->spec().router_layers.size()));
  for (int32_t layer : request.layers) {
    if (LayerIndex(bank->spec(), layer) < 0) return UnknownLayer(bank->spec(), layer);
  }
  MSA_ASSIGN_OR_RETURN(const auto snapshot, snapshots_.Use(request.snapshot_id, *bank));
  std::vector<std::pair<int64_t, DocumentEntryPtr>> parts;
  for (int64_t reference : request.references) {
    parts.emplace_back(reference, bank->FindPart(reference).entry);
  }
  std::erase_if(parts, [](const auto& part) { return part.second == nullptr; });
  for (int32_t layer : request.layers) {
    for (const auto& [reference, entry] : parts) {
      MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
      MSA_RETURN_IF_ERROR(FetchBlock(*snapshot, *entry, reference, layer, sink));
    }
  }
  return absl::OkStatus();
}

absl::Status LocalShard::FetchBlock(SnapshotState& snapshot, const DocumentEntry& entry,
                                    int64_t reference, int32_t layer,
                                    const std::function<absl::Status(rpc::FetchedBlock)>& sink) {
  Bank& bank = *snapshot.bank;
  const auto gone = [&] { return !bank.index().Visible(reference, snapshot.sequence); };
  if (gone()) return absl::OkStatus();
  auto block = ReadContent(*store_, bank.spec(), entry, reference, layer);
  if (absl::IsNotFound(block.status())) {
    if (gone() || snapshot.closed) return absl::OkStatus();  // swept meanwhile
    block = absl::DataLossError("missing");
  }
  if (absl::IsDataLoss(block.status())) {
    return Damaged(bank, entry.id, StrCat("content of layer ", layer, ", reference ", reference),
                   block.status());
  }
  MSA_RETURN_IF_ERROR(block.status());
  return sink({reference, layer, *std::move(block)});
}

}  // namespace msa::memory_node

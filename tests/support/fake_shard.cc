#include "tests/support/fake_shard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/routing.h"
#include "common/status_macros.h"

namespace msa::testing {
namespace {

rpc::DocumentInfo InfoOf(const rpc::EncodedDocument& encoded, uint64_t revision) {
  rpc::DocumentInfo info;
  info.id = encoded.document.id;
  info.title = encoded.document.title;
  info.metadata = encoded.document.metadata;
  info.revision = revision;
  info.text_bytes = encoded.document.FullText().size();
  info.added_unix_micros = 1700000000000000;
  for (const rpc::EncodedPart& part : encoded.parts) {
    info.parts.push_back({part.reference, part.span, part.num_tokens, part.routing_chunks});
  }
  return info;
}

// max over chunks of max over rows of q·k: the default reductions, folded.
float Score(const rpc::EncodedPart& part, size_t layer, size_t width,
            const std::vector<float>& queries) {
  std::vector<float> keys(part.routing_chunks * width);
  std::memcpy(keys.data(), part.layers[layer].routing.view().data(), keys.size() * sizeof(float));
  float best = kNoScore;
  for (size_t q = 0; q < queries.size(); q += width) {
    for (size_t k = 0; k < keys.size(); k += width) {
      float dot = 0;
      for (size_t i = 0; i < width; ++i) dot += queries[q + i] * keys[k + i];
      best = std::max(best, dot);
    }
  }
  return best;
}

}  // namespace

absl::Status HangUntilDeadline(const rpc::CallContext& context) {
  absl::Mutex mutex;
  absl::MutexLock lock(&mutex);
  while (!context.Cancelled() && absl::Now() < context.deadline) {
    // Nothing signals a cancellation: it is a flag.
    const auto never = [] { return false; };
    mutex.AwaitWithTimeout(absl::Condition(&never), absl::Milliseconds(1));
  }
  return context.Cancelled() ? absl::CancelledError("cancelled")
                             : absl::DeadlineExceededError("hung");
}

absl::Status FakeShard::Enter(const std::string& method, const rpc::CallContext& ctx) const {
  if (ctx.Cancelled()) return absl::CancelledError("cancelled");
  if (absl::Now() >= ctx.deadline) return absl::DeadlineExceededError("too late");
  return before ? before(method, ctx) : absl::OkStatus();
}

void FakeShard::ForgetAll() {
  absl::MutexLock lock(&mutex_);
  banks_.clear();
  deleted_uids_.clear();
}

size_t FakeShard::open_snapshots() const {
  absl::MutexLock lock(&mutex_);
  return snapshots_.size();
}

absl::StatusOr<FakeShard::Bank*> FakeShard::Find(const std::string& bank) {
  const auto found = banks_.find(bank);
  if (found != banks_.end()) return &found->second;
  return absl::NotFoundError(absl::StrCat("there is no bank '", bank, "'"));
}

absl::StatusOr<FakeShard::OpenedSnapshot*> FakeShard::Use(uint64_t id) {
  const auto found = snapshots_.find(id);
  if (found != snapshots_.end()) return &found->second;
  return rpc::SnapshotLost(absl::FailedPreconditionError("the snapshot is not open"));
}

bool FakeShard::Alive(const OpenedSnapshot& snapshot, const std::string& id,
                      const Stored& stored) const {
  if (stored.deleted) return false;
  const auto bank = banks_.find(snapshot.bank);
  if (bank == banks_.end()) return false;
  const auto now = bank->second.documents.find(id);
  return now != bank->second.documents.end() && !now->second.deleted;
}

absl::Status FakeShard::CreateBank(const rpc::CallContext& ctx, const rpc::BankSpec& spec) {
  MSA_RETURN_IF_ERROR(Enter("CreateBank", ctx));
  absl::MutexLock lock(&mutex_);
  if (deleted_uids_.contains(spec.uid)) return absl::FailedPreconditionError("was deleted");
  const auto [at, fresh] = banks_.try_emplace(spec.name);
  if (fresh) at->second.spec = spec;
  if (at->second.spec == spec) return absl::OkStatus();
  return absl::AlreadyExistsError("another bank has this name");
}

absl::Status FakeShard::DeleteBank(const rpc::CallContext& ctx, const std::string& bank) {
  MSA_RETURN_IF_ERROR(Enter("DeleteBank", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(const Bank* const found, Find(bank));
  deleted_uids_.insert(found->spec.uid);
  banks_.erase(bank);
  return absl::OkStatus();
}

absl::Status FakeShard::DeleteUnusedBank(const rpc::CallContext& ctx, const std::string& name,
                                         uint64_t bank_uid) {
  MSA_RETURN_IF_ERROR(Enter("DeleteUnusedBank", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const bank, Find(name));
  if (bank->spec.uid != bank_uid) return absl::NotFoundError("another bank");
  if (bank->references_taken > 0 || bank->next_reference > 0) {
    return absl::FailedPreconditionError("in use");
  }
  deleted_uids_.insert(bank_uid);
  banks_.erase(name);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<rpc::BankState>> FakeShard::ListBanks(const rpc::CallContext& ctx) {
  MSA_RETURN_IF_ERROR(Enter("ListBanks", ctx));
  absl::MutexLock lock(&mutex_);
  std::vector<rpc::BankState> states;
  for (const auto& [name, bank] : banks_) {
    states.push_back({bank.spec, bank.next_reference, bank.coarse, bank.references_taken});
  }
  return states;
}

absl::Status FakeShard::SetCoarse(const rpc::CallContext& ctx, const std::string& name,
                                  const rpc::CoarseState& state) {
  MSA_RETURN_IF_ERROR(Enter("SetCoarse", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const bank, Find(name));
  bank->coarse = state;
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FakeShard::TakeReferences(const rpc::CallContext& ctx,
                                                  const std::string& name, uint64_t bank_uid,
                                                  int64_t at_least, int64_t count) {
  MSA_RETURN_IF_ERROR(Enter("TakeReferences", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const bank, Find(name));
  if (bank->spec.uid != bank_uid) return absl::FailedPreconditionError("another bank");
  const int64_t first = std::max({at_least, bank->next_reference, bank->references_taken});
  bank->references_taken = first + count;
  return first;
}

absl::StatusOr<rpc::PutResult> FakeShard::PutDocument(const rpc::CallContext& ctx,
                                                      const rpc::EncodedDocument& document) {
  MSA_RETURN_IF_ERROR(Enter("PutDocument", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const bank, Find(document.bank));
  if (bank->spec.uid != document.bank_uid) return absl::FailedPreconditionError("another bank");
  Stored& stored = bank->documents[document.document.id];
  stored.encoded = document;
  stored.deleted = false;
  rpc::PutResult result{.revision = ++stored.revision};
  for (const rpc::EncodedPart& part : document.parts) {
    bank->next_reference = std::max(bank->next_reference, part.reference + 1);
    result.num_tokens += part.num_tokens;
    result.num_chunks += part.routing_chunks;
    ++result.num_parts;
  }
  return result;
}

absl::StatusOr<uint64_t> FakeShard::DeleteDocument(const rpc::CallContext& ctx,
                                                   const std::string& bank, const std::string& id) {
  MSA_RETURN_IF_ERROR(Enter("DeleteDocument", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const in, Find(bank));
  const auto found = in->documents.find(id);
  if (found == in->documents.end() || found->second.deleted) {
    return absl::NotFoundError(absl::StrCat("there is no document '", id, "'"));
  }
  found->second.deleted = true;
  return found->second.revision;
}

absl::StatusOr<std::vector<rpc::DeleteResult>> FakeShard::DeleteDocuments(
    const rpc::CallContext& ctx, const std::string& bank, absl::Span<const std::string> ids) {
  MSA_RETURN_IF_ERROR(Enter("DeleteDocuments", ctx));
  return MemoryShard::DeleteDocuments(ctx, bank, ids);
}

absl::StatusOr<rpc::StoredDocument> FakeShard::GetDocument(const rpc::CallContext& ctx,
                                                           const std::string& bank,
                                                           const std::string& id) {
  MSA_RETURN_IF_ERROR(Enter("GetDocument", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const in, Find(bank));
  const auto found = in->documents.find(id);
  if (found == in->documents.end() || found->second.deleted) {
    return absl::NotFoundError(absl::StrCat("there is no document '", id, "'"));
  }
  const Stored& stored = found->second;
  return rpc::StoredDocument{InfoOf(stored.encoded, stored.revision),
                             stored.encoded.document.FullText()};
}

absl::StatusOr<std::vector<rpc::DocumentInfo>> FakeShard::ListDocuments(const rpc::CallContext& ctx,
                                                                        const std::string& bank,
                                                                        const std::string& after,
                                                                        int32_t limit) {
  MSA_RETURN_IF_ERROR(Enter("ListDocuments", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const in, Find(bank));
  std::vector<rpc::DocumentInfo> infos;
  for (auto at = in->documents.upper_bound(after); at != in->documents.end(); ++at) {
    if (static_cast<int32_t>(infos.size()) == limit) break;
    if (!at->second.deleted) infos.push_back(InfoOf(at->second.encoded, at->second.revision));
  }
  return infos;
}

absl::StatusOr<std::vector<rpc::PartText>> FakeShard::GetParts(
    const rpc::CallContext& ctx, const std::string& bank, uint64_t snapshot_id,
    absl::Span<const int64_t> references) {
  MSA_RETURN_IF_ERROR(Enter("GetParts", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(OpenedSnapshot* const snapshot, Use(snapshot_id));
  std::vector<rpc::PartText> texts;
  for (int64_t reference : references) {
    for (const auto& [id, stored] : snapshot->documents) {
      if (!Alive(*snapshot, id, stored)) continue;
      const auto& parts = stored.encoded.parts;
      for (size_t i = 0; i < parts.size(); ++i) {
        if (parts[i].reference != reference) continue;
        const rpc::ByteSpan span = parts[i].span;
        texts.push_back(
            {reference, id, stored.encoded.document.title, stored.revision, static_cast<int32_t>(i),
             static_cast<int32_t>(parts.size()), span,
             stored.encoded.document.FullText().substr(span.begin, span.end - span.begin)});
      }
    }
  }
  return texts;
}

absl::StatusOr<rpc::Snapshot> FakeShard::OpenSnapshot(const rpc::CallContext& ctx,
                                                      const std::string& bank, absl::Duration) {
  MSA_RETURN_IF_ERROR(Enter("OpenSnapshot", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const in, Find(bank));
  const uint64_t id = next_snapshot_++;
  OpenedSnapshot& snapshot = snapshots_[id];
  snapshot.bank = bank;
  snapshot.documents = in->documents;
  int64_t parts = 0;
  for (const auto& [name, stored] : in->documents) {
    if (!stored.deleted) parts += static_cast<int64_t>(stored.encoded.parts.size());
  }
  return rpc::Snapshot{id, id, parts};
}

absl::Status FakeShard::CloseSnapshot(const rpc::CallContext& ctx, uint64_t snapshot_id) {
  MSA_RETURN_IF_ERROR(Enter("CloseSnapshot", ctx));
  absl::MutexLock lock(&mutex_);
  snapshots_.erase(snapshot_id);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<rpc::RoutedPart>> FakeShard::Route(const rpc::CallContext& ctx,
                                                              const rpc::RouteRequest& request) {
  MSA_RETURN_IF_ERROR(Enter("Route", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const bank, Find(request.bank));
  MSA_ASSIGN_OR_RETURN(OpenedSnapshot* const snapshot, Use(request.snapshot_id));
  const auto& layers = bank->spec.router_layers;
  const auto layer = std::find(layers.begin(), layers.end(), request.layer);
  if (layer == layers.end()) return absl::InvalidArgumentError("not a router layer");
  if (request.candidates > 0 && !bank->coarse.codes)
    return absl::FailedPreconditionError("no codes");
  if (std::exchange(snapshot->round, request.round) != request.round) snapshot->scores.clear();
  std::vector<rpc::RoutedPart> parts;
  for (const auto& [id, stored] : snapshot->documents) {
    if (!Alive(*snapshot, id, stored)) continue;
    for (const rpc::EncodedPart& part : stored.encoded.parts) {
      const float score =
          Score(part, layer - layers.begin(), bank->spec.routing.query_width(), request.queries);
      snapshot->scores[part.reference].push_back(score);
      parts.push_back({{score, part.reference}, 0, part.content_chunks});
    }
  }
  std::sort(parts.begin(), parts.end(),
            [](const auto& a, const auto& b) { return Precedes(a.scored, b.scored); });
  const bool loses = request.candidates > 0 && request.candidates < candidates_needed;
  if (loses && !parts.empty()) parts.erase(parts.begin());
  if (parts.size() > static_cast<size_t>(request.top_k)) parts.resize(request.top_k);
  return parts;
}

absl::StatusOr<std::vector<rpc::RankedPart>> FakeShard::Rank(const rpc::CallContext& ctx,
                                                             const rpc::RankRequest& request) {
  MSA_RETURN_IF_ERROR(Enter("Rank", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(OpenedSnapshot* const snapshot, Use(request.snapshot_id));
  const std::set<int64_t> excluded(request.exclude.begin(), request.exclude.end());
  std::vector<rpc::RankedPart> ranked;
  for (const auto& [id, stored] : snapshot->documents) {
    if (!Alive(*snapshot, id, stored)) continue;
    std::vector<rpc::RankedPart> own;
    for (const rpc::EncodedPart& part : stored.encoded.parts) {
      const std::vector<float>& scores = snapshot->scores[part.reference];
      if (excluded.count(part.reference) > 0 || scores.empty()) continue;
      float sum = 0;
      for (float score : scores) sum += score;
      own.push_back({{sum / static_cast<float>(scores.size()), part.reference}, 0});
    }
    std::sort(own.begin(), own.end(),
              [](const auto& a, const auto& b) { return Precedes(a.scored, b.scored); });
    if (request.one_per_document && own.size() > 1) own.resize(1);
    ranked.insert(ranked.end(), own.begin(), own.end());
  }
  std::sort(ranked.begin(), ranked.end(),
            [](const auto& a, const auto& b) { return Precedes(a.scored, b.scored); });
  if (ranked.size() > static_cast<size_t>(request.limit)) ranked.resize(request.limit);
  return ranked;
}

absl::Status FakeShard::FetchBlocks(const rpc::CallContext& ctx, const rpc::FetchRequest& request,
                                    const std::function<absl::Status(rpc::FetchedBlock)>& sink) {
  MSA_RETURN_IF_ERROR(Enter("FetchBlocks", ctx));
  std::vector<rpc::FetchedBlock> blocks;
  {
    absl::MutexLock lock(&mutex_);
    MSA_ASSIGN_OR_RETURN(Bank* const bank, Find(request.bank));
    MSA_ASSIGN_OR_RETURN(OpenedSnapshot* const snapshot, Use(request.snapshot_id));
    const auto& layers = bank->spec.router_layers;
    for (int32_t layer : request.layers) {
      const auto at = std::find(layers.begin(), layers.end(), layer) - layers.begin();
      for (int64_t reference : request.references) {
        for (const auto& [id, stored] : snapshot->documents) {
          if (!Alive(*snapshot, id, stored)) continue;
          for (const rpc::EncodedPart& part : stored.encoded.parts) {
            if (part.reference != reference) continue;
            blocks.push_back({reference, layer, part.layers[at].content});
          }
        }
      }
    }
  }
  for (rpc::FetchedBlock& block : blocks) MSA_RETURN_IF_ERROR(sink(std::move(block)));
  return absl::OkStatus();
}

absl::StatusOr<rpc::ShardStats> FakeShard::Stats(const rpc::CallContext& ctx,
                                                 const std::string& bank) {
  MSA_RETURN_IF_ERROR(Enter("Stats", ctx));
  absl::MutexLock lock(&mutex_);
  MSA_ASSIGN_OR_RETURN(Bank* const in, Find(bank));
  rpc::ShardStats stats;
  stats.spec = in->spec;
  for (const auto& [id, stored] : in->documents) {
    if (stored.deleted) continue;
    ++stats.num_documents;
    for (const rpc::EncodedPart& part : stored.encoded.parts) {
      ++stats.num_parts;
      stats.num_tokens += part.num_tokens;
      stats.num_chunks += part.routing_chunks;
    }
  }
  stats.open_snapshots = static_cast<int64_t>(snapshots_.size());
  return stats;
}

}  // namespace msa::testing

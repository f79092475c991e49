// The half of Router that compute nodes call.
#include <algorithm>
#include <map>
#include <utility>

#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "router/router.h"
#include "router/topk_merge.h"
#include "router/validate.h"
#include "rpc/fan_out.h"

namespace msa::router {
namespace {

absl::Status CheckLimit(const char* what, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(what, " is ", value, ": use 1 to ", limit));
}

// Which of the two a number means cannot be told: an answer might be read from the other.
absl::Status SharedReference(int64_t reference, const rpc::BankSpec& bank) {
  return absl::DataLossError(StrCat(
      "two documents of bank '", bank.name, "' on different shards have the same reference ",
      reference,
      ": routers of an earlier release added them at once, or a shard came back with an older "
      "copy of its data. Add one of them again (`msa ls --json` shows references), or delete "
      "the bank and add again"));
}

}  // namespace

std::vector<std::string> Router::MissingNames(Session* session) const {
  absl::MutexLock lock(&session->mutex);
  std::vector<std::string> names;
  for (int shard = 0; shard < shards_.size(); ++shard) {
    if (session->missing[shard]) names.push_back(shards_.name(shard));
  }
  return names;
}

absl::Status Router::AskSession(const rpc::CallContext& ctx, Session* session,
                                const ShardGroup::Call& call) {
  std::vector<int> which;
  {
    absl::MutexLock lock(&session->mutex);
    for (int shard = 0; shard < shards_.size(); ++shard) {
      if (!session->missing[shard]) which.push_back(shard);
    }
  }
  if (which.empty()) return absl::UnavailableError("no shard of the session answers any more");
  const auto statuses = shards_.AskEach(
      ctx, which, !session->allow_partial, [&](const rpc::CallContext& limited, int shard) {
        return rpc::NameLostSnapshot(call(limited, shard), shards_.name(shard));
      });
  if (!session->allow_partial) return rpc::FirstError(statuses);
  absl::MutexLock lock(&session->mutex);
  size_t missing = 0;
  for (size_t i = 0; i < which.size(); ++i) {
    if (statuses[i].ok()) continue;
    if (!absl::IsUnavailable(statuses[i])) return statuses[i];
    session->missing[which[i]] = true;
    ++missing;
  }
  return missing < which.size() ? absl::OkStatus() : rpc::FirstError(statuses);
}

absl::Status Router::OpenSnapshots(const rpc::CallContext& ctx, const std::string& bank,
                                   Session* session, int64_t* num_parts,
                                   std::vector<rpc::BankState>* states) {
  const int count = shards_.size();
  std::vector<rpc::Snapshot> snapshots(count);
  std::vector<std::optional<rpc::BankState>> found(count);
  const absl::Status status =
      AskSession(ctx, session, [&](const rpc::CallContext& limited, int shard) -> absl::Status {
        rpc::MemoryShard& on = shards_.shard(shard);
        MSA_ASSIGN_OR_RETURN(snapshots[shard], on.OpenSnapshot(limited, bank, sessions_.ttl()));
        MSA_ASSIGN_OR_RETURN(const auto banks, on.ListBanks(limited));
        for (const rpc::BankState& state : banks) {
          if (state.spec.name == bank) found[shard] = state;
        }
        return found[shard] ? absl::OkStatus() : UnknownBank(bank);
      });
  for (int shard = 0; shard < count; ++shard) {
    session->snapshots[shard] = snapshots[shard].id;
    *num_parts += snapshots[shard].num_parts;
  }
  MSA_RETURN_IF_ERROR(status);
  states->clear();
  for (std::optional<rpc::BankState>& state : found) {
    if (!state) continue;
    if (!states->empty() && !(states->front().spec == state->spec)) {
      return absl::FailedPreconditionError(
          StrCat("bank '", bank, "' is not the same on all shards: delete it and add again"));
    }
    states->push_back(*std::move(state));
  }
  if (!states->empty()) session->bank = states->front().spec;
  return absl::OkStatus();
}

// Best effort: what cannot be closed now expires.
void Router::CloseSnapshots(const rpc::CallContext& ctx, const Session& session) {
  std::vector<int> open;
  for (int shard = 0; shard < shards_.size(); ++shard) {
    if (session.snapshots[shard] != 0) open.push_back(shard);
  }
  if (open.empty()) return;
  // The client may be gone: its cancellation must not stop this.
  const rpc::CallContext own{.deadline = absl::Now() + absl::Seconds(2),
                             .request_id = ctx.request_id,
                             .cancelled = nullptr};
  (void)shards_.AskEach(
      own, open, /*all_or_nothing=*/false, [&](const rpc::CallContext& limited, int shard) {
        return shards_.shard(shard).CloseSnapshot(limited, session.snapshots[shard]);
      });
}

absl::StatusOr<rpc::SessionInfo> Router::OpenSession(const rpc::CallContext& ctx,
                                                     const std::string& bank,
                                                     const rpc::SessionOptions& options) {
  MSA_RETURN_IF_ERROR(CheckBankName(bank));
  rpc::SessionInfo info;
  std::shared_ptr<Session> session;
  absl::Status status;
  // A second attempt where a crash left the bank on some shards only.
  for (int attempt = 0; attempt < 2; ++attempt) {
    session = std::make_shared<Session>();
    session->allow_partial = options.allow_partial;
    session->snapshots.resize(shards_.size());
    {
      absl::MutexLock lock(&session->mutex);
      session->missing.resize(shards_.size());
    }
    info.num_parts = 0;
    std::vector<rpc::BankState> states;
    status = OpenSnapshots(ctx, bank, session.get(), &info.num_parts, &states);
    if (status.ok()) {
      auto plan = PlanScan(states, info.num_parts, options);
      status = plan.status();
      if (plan.ok()) session->scan = *std::move(plan);
    }
    if (status.ok()) break;
    CloseSnapshots(ctx, *session);
    if (!absl::IsNotFound(status)) return status;
    if (shards_.size() == 1) return UnknownBank(bank);
    MSA_RETURN_IF_ERROR(banks_.Find(ctx, bank).status());
  }
  MSA_RETURN_IF_ERROR(status);
  info.bank = session->bank;
  info.missing_shards = MissingNames(session.get());
  info.shard_snapshots = session->snapshots;
  absl::StatusOr<uint64_t> id = sessions_.Add(session);
  if (!id.ok()) {
    CloseSnapshots(ctx, *session);
    return id.status();
  }
  info.session_id = *id;
  return info;
}

absl::Status Router::CloseSession(const rpc::CallContext& ctx, uint64_t session_id) {
  const std::shared_ptr<Session> session = sessions_.Remove(session_id);
  if (session != nullptr) CloseSnapshots(ctx, *session);
  return absl::OkStatus();
}

absl::StatusOr<rpc::Selection> Router::Route(const rpc::CallContext& ctx, uint64_t session_id,
                                             int32_t round, int32_t layer, int32_t top_k,
                                             std::vector<float> queries) {
  MSA_RETURN_IF_ERROR(CheckLimit("top_k", top_k, kMaxTopK));
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, sessions_.Use(session_id));
  const size_t width = std::max(session->bank.routing.query_width(), 1);
  if (queries.empty() || queries.size() % width != 0) {
    return absl::InvalidArgumentError(
        StrCat("queries of ", queries.size(), " numbers are not rows of ", width));
  }
  MSA_RETURN_IF_ERROR(
      CheckLimit("the number of query tokens", queries.size() / width, kMaxQueryTokens));
  rpc::RouteRequest request{.bank = session->bank.name,
                            .round = round,
                            .layer = layer,
                            .top_k = top_k,
                            .queries = std::move(queries),
                            .candidates = session->scan.CandidatesFor(top_k)};
  rpc::Selection selection;
  const absl::Time start = absl::Now();
  MSA_ASSIGN_OR_RETURN(selection.parts, RouteAll(ctx, session.get(), request));
  if (!session->scan.compare_candidates.empty()) {
    const double exact_ms = absl::ToDoubleMilliseconds(absl::Now() - start);
    MSA_ASSIGN_OR_RETURN(selection.comparisons, Compare(ctx, session.get(), std::move(request),
                                                        selection.parts, exact_ms));
  }
  selection.missing_shards = MissingNames(session.get());
  return selection;
}

absl::StatusOr<std::vector<rpc::RoutedPart>> Router::RouteAll(const rpc::CallContext& ctx,
                                                              Session* session,
                                                              rpc::RouteRequest& request) {
  std::vector<std::vector<rpc::RoutedPart>> lists(shards_.size());
  MSA_RETURN_IF_ERROR(
      AskSession(ctx, session, [&](const rpc::CallContext& limited, int shard) -> absl::Status {
        // The only shard takes the request itself: its queries are not copied.
        std::optional<rpc::RouteRequest> copy;
        if (shards_.size() > 1) copy = request;
        rpc::RouteRequest& own = copy.has_value() ? *copy : request;
        own.snapshot_id = session->snapshots[shard];
        MSA_ASSIGN_OR_RETURN(lists[shard], shards_.shard(shard).Route(limited, own));
        return absl::OkStatus();
      }));
  std::vector<rpc::RoutedPart> best = MergeTopK(std::move(lists), request.top_k);
  if (const auto twice = GivenTwice(best)) return SharedReference(*twice, session->bank);
  return best;
}

absl::StatusOr<std::vector<rpc::ScanComparison>> Router::Compare(
    const rpc::CallContext& ctx, Session* session, rpc::RouteRequest request,
    const std::vector<rpc::RoutedPart>& exact, double exact_ms) {
  std::vector<rpc::ScanComparison> comparisons;
  for (const int32_t candidates : session->scan.compare_candidates) {
    request.candidates = candidates;
    const absl::Time start = absl::Now();
    MSA_ASSIGN_OR_RETURN(const auto coarse, RouteAll(ctx, session, request));
    comparisons.push_back({.candidates = candidates,
                           .selections = 1,
                           .same = SameParts(exact, coarse),
                           .exact_ms = exact_ms,
                           .coarse_ms = absl::ToDoubleMilliseconds(absl::Now() - start)});
  }
  return comparisons;
}

absl::StatusOr<std::vector<rpc::RankedPart>> Router::Rank(const rpc::CallContext& ctx,
                                                          uint64_t session_id,
                                                          const rpc::RankRequest& request) {
  MSA_RETURN_IF_ERROR(CheckLimit("limit", request.limit, kMaxRankLimit));
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, sessions_.Use(session_id));
  std::vector<std::vector<rpc::RankedPart>> lists(shards_.size());
  MSA_RETURN_IF_ERROR(AskSession(
      ctx, session.get(), [&](const rpc::CallContext& limited, int shard) -> absl::Status {
        rpc::RankRequest own = request;
        own.bank = session->bank.name;
        own.snapshot_id = session->snapshots[shard];
        MSA_ASSIGN_OR_RETURN(lists[shard], shards_.shard(shard).Rank(limited, own));
        return absl::OkStatus();
      }));
  std::vector<rpc::RankedPart> best = MergeTopK(std::move(lists), request.limit);
  if (const auto twice = GivenTwice(best)) return SharedReference(*twice, session->bank);
  return best;
}

absl::StatusOr<std::vector<rpc::PartText>> Router::GetParts(
    const rpc::CallContext& ctx, uint64_t session_id, const std::vector<int64_t>& references) {
  if (references.empty()) return std::vector<rpc::PartText>();
  MSA_RETURN_IF_ERROR(CheckLimit("the number of references", references.size(), kMaxRankLimit));
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, sessions_.Use(session_id));
  std::vector<std::vector<rpc::PartText>> lists(shards_.size());
  MSA_RETURN_IF_ERROR(AskSession(
      ctx, session.get(), [&](const rpc::CallContext& limited, int shard) -> absl::Status {
        MSA_ASSIGN_OR_RETURN(lists[shard],
                             shards_.shard(shard).GetParts(limited, session->bank.name,
                                                           session->snapshots[shard], references));
        return absl::OkStatus();
      }));
  std::map<int64_t, rpc::PartText> found;
  for (auto& list : lists) {
    std::map<int64_t, rpc::PartText> here;  // a reference that is asked for twice comes twice
    for (rpc::PartText& part : list) here.emplace(part.reference, std::move(part));
    found.merge(here);
    if (!here.empty()) return SharedReference(here.begin()->first, session->bank);
  }
  std::vector<rpc::PartText> parts;
  for (int64_t reference : references) {
    const auto part = found.find(reference);
    if (part != found.end()) parts.push_back(part->second);
  }
  return parts;
}

}  // namespace msa::router

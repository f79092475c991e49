// The client-facing half. router_sessions.cc has the other.
#include "router/router.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/check.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "router/scan_plan.h"
#include "router/validate.h"
#include "rpc/fan_out.h"

namespace msa::router {
namespace {

constexpr int32_t kDefaultPageSize = 100;
// A page ends here even if more documents were asked for: 1000 documents with 64 KiB of metadata
// each would not fit in a message.
constexpr size_t kMaxPageBytes = 16u << 20;
constexpr size_t kMaxIdsPerDelete = 10000;

size_t BytesOf(const rpc::DocumentInfo& info) {
  return info.id.size() + info.title.size() + info.metadata.size() + 32 * info.parts.size() + 64;
}

absl::StatusOr<std::string> AfterId(const std::string& page_token) {
  std::string after;
  if (absl::WebSafeBase64Unescape(page_token, &after)) return after;
  return absl::InvalidArgumentError(
      "the page token is none: use next_page_token of the page before as it is");
}

absl::StatusOr<int32_t> PageSize(int32_t wanted) {
  if (wanted < 0) return absl::InvalidArgumentError("the page size is negative");
  return wanted == 0 ? kDefaultPageSize : std::min(wanted, kMaxPageSize);
}

}  // namespace

RouterOptions RouterOptions::ForNodes(int compute_nodes, int at_once) {
  RouterOptions options;
  const int nodes = std::max(1, compute_nodes);
  options.encode_threads *= nodes;
  options.encode_threads_if_short = at_once * nodes;
  options.encode_short_bytes *= static_cast<size_t>(nodes);
  options.encode_window = 2 * std::max(options.encode_threads, options.encode_threads_if_short);
  return options;
}

Router::Router(const rpc::ShardMap& map, std::vector<rpc::MemoryShard*> shards,
               const std::vector<rpc::ComputeNode*>& compute_nodes, RouterOptions options)
    : shards_(map, std::move(shards), options.shard_timeout, options.fan_out_threads,
              options.observer),
      banks_(&shards_, &compute_),
      sessions_(options.session_ttl, options.max_sessions, options.clock),
      encode_window_(options.encode_window),
      observer_(options.observer),
      encode_budget_(options.encode_threads,
                     std::max(options.encode_threads, options.encode_threads_if_short),
                     options.encode_short_bytes),
      encoders_(std::max(options.encode_threads, options.encode_threads_if_short), 1 << 16) {
  for (size_t i = 0; i < compute_nodes.size(); ++i) {
    const bool named = i < map.compute_nodes.size();
    compute_.Add(named ? map.compute_nodes[i].name : StrCat("compute-", i), compute_nodes[i]);
  }
}

void Router::AddComputeNode(const std::string& name, rpc::ComputeNode* node) {
  compute_.Add(name, node);
}

absl::Status Router::Repair(const rpc::CallContext& ctx) { return banks_.Repair(ctx); }

absl::StatusOr<rpc::BankSpec> Router::CreateBank(const rpc::CallContext& ctx,
                                                 const std::string& name,
                                                 const rpc::BankOptions& options) {
  return banks_.Create(ctx, name, options);
}

absl::StatusOr<rpc::ModelInfo> Router::GetModel(const rpc::CallContext& ctx) {
  return compute_.Info(ctx);
}

absl::Status Router::DeleteBank(const rpc::CallContext& ctx, const std::string& name) {
  return banks_.Delete(ctx, name);
}

absl::StatusOr<std::vector<rpc::BankSpec>> Router::ListBanks(const rpc::CallContext& ctx) {
  return banks_.List(ctx);
}

absl::StatusOr<rpc::CoarseState> Router::SetCoarse(const rpc::CallContext& ctx,
                                                   const std::string& name,
                                                   const rpc::CoarseState& state) {
  MSA_RETURN_IF_ERROR(CheckCalibration(name, state));
  return banks_.SetCoarse(ctx, name, state);
}

absl::Status Router::AddDocuments(const rpc::CallContext& ctx, const std::string& bank,
                                  const std::function<std::optional<rpc::NewDocument>()>& next,
                                  const std::function<bool(const rpc::AddResult&)>& done) {
  const IngestParts parts{.shards = &shards_,
                          .compute = &compute_,
                          .banks = &banks_,
                          .references = &references_,
                          .encoders = &encoders_,
                          .budget = &encode_budget_,
                          .window = encode_window_,
                          .observer = observer_};
  return router::AddDocuments(parts, ctx, bank, next, done);
}

void Router::DeleteOnShard(const rpc::CallContext& ctx, const std::string& bank, int shard,
                           absl::Span<const size_t> which,
                           std::vector<rpc::DeleteResult>& results) {
  absl::Status status;
  for (size_t begin = 0; begin < which.size(); begin += kMaxIdsPerShardDelete) {
    const auto some = which.subspan(begin, kMaxIdsPerShardDelete);
    std::vector<std::string> ids;
    for (size_t i : some) ids.push_back(results[i].id);
    std::vector<rpc::DeleteResult> done;
    // A shard that cannot be reached is not asked for the rest.
    if (status.ok()) {
      status = shards_.Ask(ctx, shard, [&](const rpc::CallContext& limited, int) -> absl::Status {
        MSA_ASSIGN_OR_RETURN(done, shards_.shard(shard).DeleteDocuments(limited, bank, ids));
        return absl::OkStatus();
      });
    }
    for (size_t i = 0; i < some.size(); ++i) {
      results[some[i]] = status.ok() ? std::move(done[i]) : rpc::DeleteResult{ids[i], status};
    }
  }
}

absl::StatusOr<std::vector<rpc::DeleteResult>> Router::DeleteDocuments(
    const rpc::CallContext& ctx, const std::string& bank, const std::vector<std::string>& ids) {
  if (ids.size() > kMaxIdsPerDelete) {
    return absl::InvalidArgumentError(
        StrCat("the request has ", ids.size(), " ids, the limit is ", kMaxIdsPerDelete));
  }
  MSA_RETURN_IF_ERROR(banks_.Find(ctx, bank).status());
  std::vector<rpc::DeleteResult> results(ids.size());
  std::map<int, std::vector<size_t>> by_shard;
  for (size_t i = 0; i < ids.size(); ++i) {
    results[i].id = ids[i];
    results[i].status = CheckDocumentId(ids[i]);
    if (results[i].status.ok()) by_shard[shards_.ShardOf(ids[i])].push_back(i);
  }
  std::vector<int> which;
  for (const auto& [shard, items] : by_shard) which.push_back(shard);
  if (which.empty()) return results;
  shards_.InParallel(which.size(), [&](size_t i) {
    DeleteOnShard(ctx, bank, which[i], by_shard[which[i]], results);
  });
  return results;
}

absl::StatusOr<rpc::StoredDocument> Router::GetDocument(const rpc::CallContext& ctx,
                                                        const std::string& bank,
                                                        const std::string& id) {
  MSA_RETURN_IF_ERROR(CheckBankName(bank));
  MSA_RETURN_IF_ERROR(CheckDocumentId(id));
  rpc::StoredDocument document;
  MSA_RETURN_IF_ERROR(shards_.Ask(
      ctx, shards_.ShardOf(id), [&](const rpc::CallContext& limited, int shard) -> absl::Status {
        MSA_ASSIGN_OR_RETURN(document, shards_.shard(shard).GetDocument(limited, bank, id));
        return absl::OkStatus();
      }));
  return document;
}

absl::StatusOr<rpc::DocumentPage> Router::ListDocuments(const rpc::CallContext& ctx,
                                                        const std::string& bank, int32_t page_size,
                                                        const std::string& page_token) {
  MSA_RETURN_IF_ERROR(CheckBankName(bank));
  MSA_ASSIGN_OR_RETURN(const int32_t limit, PageSize(page_size));
  MSA_ASSIGN_OR_RETURN(const std::string after, AfterId(page_token));
  std::vector<std::vector<rpc::DocumentInfo>> lists(shards_.size());
  MSA_RETURN_IF_ERROR(rpc::FirstError(shards_.AskEach(
      ctx, shards_.All(), /*all_or_nothing=*/true,
      [&](const rpc::CallContext& limited, int shard) -> absl::Status {
        // One more than wanted tells whether there is a next page.
        MSA_ASSIGN_OR_RETURN(lists[shard],
                             shards_.shard(shard).ListDocuments(limited, bank, after, limit + 1));
        return absl::OkStatus();
      })));
  std::vector<rpc::DocumentInfo> merged;
  for (auto& list : lists) std::move(list.begin(), list.end(), std::back_inserter(merged));
  std::sort(merged.begin(), merged.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  rpc::DocumentPage page;
  size_t bytes = 0;
  for (rpc::DocumentInfo& info : merged) {
    bytes += BytesOf(info);
    const bool full = page.documents.size() == static_cast<size_t>(limit) ||
                      (bytes > kMaxPageBytes && !page.documents.empty());
    if (full) {
      page.next_page_token = absl::WebSafeBase64Escape(page.documents.back().id);
      break;
    }
    page.documents.push_back(std::move(info));
  }
  return page;
}

absl::StatusOr<rpc::RetrieveReply> Router::Retrieve(const rpc::CallContext& ctx,
                                                    const rpc::RetrieveRequest& asked) {
  rpc::RetrieveRequest request = asked;
  if (request.bank.empty()) request.bank = kDefaultBank;
  MSA_RETURN_IF_ERROR(CheckRequest(request));
  rpc::RetrieveReply reply;
  MSA_RETURN_IF_ERROR(compute_.Call(ctx, [&](rpc::ComputeNode& node) -> absl::Status {
    MSA_ASSIGN_OR_RETURN(reply, node.Retrieve(ctx, request));
    return absl::OkStatus();
  }));
  return reply;
}

absl::Status Router::Generate(const rpc::CallContext& ctx, const rpc::GenerateRequest& asked,
                              const rpc::EventSink& sink) {
  rpc::GenerateRequest request = asked;
  if (request.bank.empty()) request.bank = kDefaultBank;
  MSA_RETURN_IF_ERROR(CheckRequest(request));
  // Once the client has seen an event, another node must not begin again.
  bool sent = false;
  return compute_.Call(
      ctx,
      [&](rpc::ComputeNode& node) {
        return node.Generate(ctx, request, [&](const rpc::GenerateEvent& event) {
          sent = true;
          return sink(event);
        });
      },
      [&sent] { return !sent; });
}

absl::StatusOr<rpc::BankStats> Router::Stats(const rpc::CallContext& ctx, const std::string& bank) {
  MSA_RETURN_IF_ERROR(CheckBankName(bank));
  rpc::BankStats stats;
  stats.shards.resize(shards_.size());
  const auto statuses = shards_.AskEach(
      ctx, shards_.All(), /*all_or_nothing=*/false,
      [&](const rpc::CallContext& limited, int shard) -> absl::Status {
        MSA_ASSIGN_OR_RETURN(stats.shards[shard].stats, shards_.shard(shard).Stats(limited, bank));
        return absl::OkStatus();
      });
  bool answered = false;
  for (int shard = 0; shard < shards_.size(); ++shard) {
    stats.shards[shard].shard = shards_.name(shard);
    stats.shards[shard].status = statuses[shard];
    if (statuses[shard].ok() && !std::exchange(answered, true)) {
      stats.spec = stats.shards[shard].stats.spec;
    }
  }
  if (answered) return stats;
  return rpc::FirstError(statuses);
}

}  // namespace msa::router

// SessionRouter over RoutingService.
#include <utility>

#include "common/status_macros.h"
#include "rpc/batching.h"
#include "rpc/client_call.h"
#include "rpc/convert.h"
#include "rpc/query_rows.h"
#include "rpc/remote.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

class RemoteSessionRouter final : public SessionRouter {
 public:
  explicit RemoteSessionRouter(RemoteOptions options)
      : peer_(std::move(options), kRoutingServiceName) {}

  absl::StatusOr<SessionInfo> OpenSession(const CallContext& ctx, const std::string& bank,
                                          const SessionOptions& options) override {
    pb::OpenSessionRequest request;
    request.set_bank(bank);
    request.set_allow_partial(options.allow_partial);
    request.set_scan(ToProto(options.scan));
    request.mutable_compare_candidates()->Assign(options.compare_candidates.begin(),
                                                 options.compare_candidates.end());
    pb::OpenSessionReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "OpenSession", ctx, request, &reply));
    SessionInfo session;
    session.session_id = reply.session_id();
    MSA_ASSIGN_OR_RETURN(session.bank, FromProto(reply.bank()));
    session.num_parts = reply.num_parts();
    session.shard_snapshots = ToVector<uint64_t>(reply.shard_snapshots());
    session.missing_shards = ToVector<std::string>(reply.missing_shards());
    return session;
  }

  absl::Status CloseSession(const CallContext& ctx, uint64_t session_id) override {
    pb::CloseSessionRequest request;
    request.set_session_id(session_id);
    pb::CloseSessionReply reply;
    return CallUnary(&peer_, "CloseSession", ctx, request, &reply);
  }

  absl::StatusOr<Selection> Route(const CallContext& ctx, uint64_t session_id, int32_t round,
                                  int32_t layer, int32_t top_k,
                                  std::vector<float> queries) override {
    pb::RouteRequest request;
    request.set_session_id(session_id);
    request.set_round(round);
    request.set_layer(layer);
    request.set_top_k(top_k);
    ClientCall call(&peer_, Peer::Kind::kBrief, "Route", ctx);
    SendQueries(&call, std::move(request), queries);
    Selection selection;
    MSA_RETURN_IF_ERROR(ReadReplies<pb::RouteReply>(&call, [&](const auto& reply) {
      selection.parts = FromRepeated(reply.parts());
      selection.missing_shards = ToVector<std::string>(reply.missing_shards());
      selection.comparisons = FromRepeated(reply.comparisons());
    }));
    return selection;
  }

  absl::StatusOr<std::vector<RankedPart>> Rank(const CallContext& ctx, uint64_t session_id,
                                               const RankRequest& request) override {
    pb::RankRequest message;
    message.set_session_id(session_id);
    message.set_round(request.round);
    message.set_limit(request.limit);
    message.set_one_per_document(request.one_per_document);
    message.mutable_exclude()->Assign(request.exclude.begin(), request.exclude.end());
    pb::RankReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "Rank", ctx, message, &reply));
    return FromRepeated(reply.parts());
  }

  absl::StatusOr<std::vector<PartText>> GetParts(const CallContext& ctx, uint64_t session_id,
                                                 const std::vector<int64_t>& references) override {
    pb::GetPartsRequest request;
    request.set_session_id(session_id);
    request.mutable_references()->Assign(references.begin(), references.end());
    ClientCall call(&peer_, Peer::Kind::kBrief, "GetParts", ctx);
    Send(&call, request);
    std::vector<PartText> parts;
    MSA_RETURN_IF_ERROR(ReadReplies<pb::GetPartsReply>(&call, [&](const auto& reply) {
      for (const auto& part : reply.parts()) parts.push_back(FromProto(part));
    }));
    return parts;
  }

 private:
  Peer peer_;
};

}  // namespace

std::unique_ptr<SessionRouter> MakeRemoteSessionRouter(RemoteOptions options) {
  return std::make_unique<RemoteSessionRouter>(std::move(options));
}

}  // namespace msa::rpc

// RoutingService over any SessionRouter.
#include <utility>

#include "common/status_macros.h"
#include "rpc/batching.h"
#include "rpc/convert.h"
#include "rpc/query_rows.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

void ToReply(const SessionInfo& session, pb::OpenSessionReply* reply) {
  reply->set_session_id(session.session_id);
  ToProto(session.bank, reply->mutable_bank());
  reply->set_num_parts(session.num_parts);
  reply->mutable_shard_snapshots()->Assign(session.shard_snapshots.begin(),
                                           session.shard_snapshots.end());
  for (const std::string& shard : session.missing_shards) reply->add_missing_shards(shard);
}

absl::Status Route(SessionRouter* router, ServerCall& call) {
  pb::RouteRequest request;
  std::vector<float> queries;
  MSA_RETURN_IF_ERROR(ReadQueries(call, &request, &queries));
  MSA_ASSIGN_OR_RETURN(const Selection selection,
                       router->Route(call.context(), request.session_id(), request.round(),
                                     request.layer(), request.top_k(), std::move(queries)));
  pb::RouteReply reply;
  ToRepeated(selection.parts, reply.mutable_parts());
  for (const std::string& shard : selection.missing_shards) reply.add_missing_shards(shard);
  ToRepeated(selection.comparisons, reply.mutable_comparisons());
  call.Write(ToBuffer(reply));
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<RawService> MakeService(SessionRouter* router, CallPools* pools) {
  auto service = std::make_unique<RawService>(kRoutingServiceName);
  service->Method("OpenSession", &pools->brief,
                  Unary<pb::OpenSessionRequest, pb::OpenSessionReply>(
                      [router](const CallContext& context, const auto& request, auto* reply) {
                        MSA_RETURN_IF_ERROR(CheckScan(request.scan()));
                        const SessionOptions options{
                            request.allow_partial(), FromProto(request.scan()),
                            ToVector<int32_t>(request.compare_candidates())};
                        MSA_ASSIGN_OR_RETURN(const SessionInfo session,
                                             router->OpenSession(context, request.bank(), options));
                        ToReply(session, reply);
                        return absl::OkStatus();
                      }));
  service->Method("CloseSession", &pools->brief,
                  Unary<pb::CloseSessionRequest, pb::CloseSessionReply>(
                      [router](const CallContext& context, const auto& request, auto*) {
                        return router->CloseSession(context, request.session_id());
                      }));
  service->Method("Route", &pools->brief,
                  [router](ServerCall& call) { return Route(router, call); });
  service->Method("Rank", &pools->brief,
                  Unary<pb::RankRequest, pb::RankReply>(
                      [router](const CallContext& context, const auto& request, auto* reply) {
                        RankRequest rank;
                        rank.round = request.round();
                        rank.limit = request.limit();
                        rank.one_per_document = request.one_per_document();
                        rank.exclude = ToVector<int64_t>(request.exclude());
                        MSA_ASSIGN_OR_RETURN(const auto parts,
                                             router->Rank(context, request.session_id(), rank));
                        ToRepeated(parts, reply->mutable_parts());
                        return absl::OkStatus();
                      }));
  service->Method("GetParts", &pools->brief,
                  Streaming<pb::GetPartsRequest>([router](ServerCall& call, const auto& request) {
                    MSA_ASSIGN_OR_RETURN(const auto parts,
                                         router->GetParts(call.context(), request.session_id(),
                                                          ToVector<int64_t>(request.references())));
                    return WriteBatches<pb::GetPartsReply>(
                        call, parts, [](auto* reply) { return reply->mutable_parts(); });
                  }));
  return service;
}

}  // namespace msa::rpc

// ComputeService over any ComputeNode.
#include "common/status_macros.h"
#include "rpc/convert.h"
#include "rpc/event_stream.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

absl::StatusOr<EncodeRequest> ToRequest(const pb::EncodeDocumentRequest& message) {
  EncodeRequest request;
  MSA_ASSIGN_OR_RETURN(request.bank, FromProto(message.bank()));
  request.document = FromProto(message.document());
  request.parts = FromRepeated(message.parts());
  request.first_reference = message.first_reference();
  request.shard = message.shard();
  return request;
}

}  // namespace

std::unique_ptr<RawService> MakeService(ComputeNode* node, CallPools* pools) {
  auto service = std::make_unique<RawService>(kComputeServiceName);
  service->Method("Info", &pools->brief,
                  Unary<pb::InfoRequest, pb::InfoReply>(
                      [node](const CallContext& context, const auto&, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(const ModelInfo info, node->Info(context));
                        ToProto(info, reply);
                        return absl::OkStatus();
                      }));
  service->Method("SplitDocument", &pools->brief,
                  Unary<pb::SplitDocumentRequest, pb::SplitDocumentReply>(
                      [node](const CallContext& context, const auto& request, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(const auto parts,
                                             node->SplitDocument(context, request.full_text(),
                                                                 request.part_tokens()));
                        ToRepeated(parts, reply->mutable_parts());
                        return absl::OkStatus();
                      }));
  service->Method("EncodeDocument", &pools->lengthy,
                  Unary<pb::EncodeDocumentRequest, pb::EncodeDocumentReply>(
                      [node](const CallContext& context, const auto& message, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(const EncodeRequest request, ToRequest(message));
                        MSA_ASSIGN_OR_RETURN(const PutResult result,
                                             node->EncodeDocument(context, request));
                        ToProto(result, reply->mutable_result());
                        return absl::OkStatus();
                      },
                      kMaxPiecesWithParts));
  AddAnswerMethods(service.get(), node, pools);
  return service;
}

}  // namespace msa::rpc

// Generate and Retrieve, which ComputeService and MemoryService share. Only rpc/*.cc includes this
// header.
#ifndef MSA_RPC_EVENT_STREAM_H_
#define MSA_RPC_EVENT_STREAM_H_

#include "common/status_macros.h"
#include "rpc/client_call.h"
#include "rpc/convert.h"
#include "rpc/server_call.h"
#include "rpc/services.h"

namespace msa::rpc {

// `Answerer`: ComputeNode or MemoryService.
template <class Answerer>
void AddAnswerMethods(RawService* service, Answerer* answerer, CallPools* pools) {
  service->Method("Generate", &pools->lengthy,
                  Streaming<pb::GenerateRequest>(
                      [answerer](ServerCall& call, const pb::GenerateRequest& request) {
                        MSA_RETURN_IF_ERROR(CheckScan(request.scan()));
                        return answerer->Generate(call.context(), FromProto(request),
                                                  [&call](const GenerateEvent& event) {
                                                    pb::GenerateEvent message;
                                                    ToProto(event, &message);
                                                    return call.Write(ToBuffer(message));
                                                  });
                      }));
  service->Method("Retrieve", &pools->lengthy,
                  Unary<pb::RetrieveRequest, pb::RetrieveReply>(
                      [answerer](const CallContext& context, const auto& request, auto* reply) {
                        MSA_RETURN_IF_ERROR(CheckScan(request.scan()));
                        MSA_ASSIGN_OR_RETURN(const RetrieveReply found,
                                             answerer->Retrieve(context, FromProto(request)));
                        ToProto(found, reply);
                        return absl::OkStatus();
                      }));
}

inline absl::Status CallGenerate(Peer* peer, const CallContext& ctx, const GenerateRequest& request,
                                 const EventSink& sink) {
  pb::GenerateRequest message;
  ToProto(request, &message);
  ClientCall call(peer, Peer::Kind::kStream, "Generate", ctx);
  Send(&call, message);
  grpc::ByteBuffer buffer;
  while (call.Read(&buffer)) {
    pb::GenerateEvent received;
    MSA_RETURN_IF_ERROR(ReplyFromBuffer(&buffer, &received));
    GenerateEvent event;
    if (!FromProto(received, &event)) continue;
    if (!sink(event)) return absl::CancelledError("the client is gone");
  }
  return call.Finish();
}

inline absl::StatusOr<RetrieveReply> CallRetrieve(Peer* peer, const CallContext& ctx,
                                                  const RetrieveRequest& request) {
  pb::RetrieveRequest message;
  ToProto(request, &message);
  pb::RetrieveReply reply;
  MSA_RETURN_IF_ERROR(CallUnary(peer, "Retrieve", ctx, message, &reply));
  return FromProto(reply);
}

}  // namespace msa::rpc

#endif  // MSA_RPC_EVENT_STREAM_H_

// ComputeNode over ComputeService.
#include <utility>

#include "common/status_macros.h"
#include "rpc/client_call.h"
#include "rpc/convert.h"
#include "rpc/event_stream.h"
#include "rpc/remote.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

class RemoteComputeNode final : public ComputeNode {
 public:
  explicit RemoteComputeNode(RemoteOptions options)
      : peer_(std::move(options), kComputeServiceName) {}

  absl::StatusOr<ModelInfo> Info(const CallContext& ctx) override {
    pb::InfoReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "Info", ctx, pb::InfoRequest(), &reply));
    return FromProto(reply);
  }

  absl::StatusOr<std::vector<ByteSpan>> SplitDocument(const CallContext& ctx,
                                                      const std::string& full_text,
                                                      int32_t part_tokens) override {
    pb::SplitDocumentRequest request;
    request.set_full_text(full_text);
    request.set_part_tokens(part_tokens);
    pb::SplitDocumentReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "SplitDocument", ctx, request, &reply));
    return FromRepeated(reply.parts());
  }

  // Encoding a book takes minutes: the deadline is that of a stream.
  absl::StatusOr<PutResult> EncodeDocument(const CallContext& ctx,
                                           const EncodeRequest& request) override {
    pb::EncodeDocumentRequest message;
    ToProto(request.bank, message.mutable_bank());
    ToProto(request.document, message.mutable_document());
    ToRepeated(request.parts, message.mutable_parts());
    message.set_first_reference(request.first_reference);
    message.set_shard(request.shard);
    pb::EncodeDocumentReply reply;
    MSA_RETURN_IF_ERROR(
        CallUnary(&peer_, "EncodeDocument", ctx, message, &reply, Peer::Kind::kStream));
    return FromProto(reply.result());
  }

  absl::Status Generate(const CallContext& ctx, const GenerateRequest& request,
                        const EventSink& sink) override {
    return CallGenerate(&peer_, ctx, request, sink);
  }

  absl::StatusOr<RetrieveReply> Retrieve(const CallContext& ctx,
                                         const RetrieveRequest& request) override {
    return CallRetrieve(&peer_, ctx, request);
  }

 private:
  Peer peer_;
};

}  // namespace

std::unique_ptr<ComputeNode> MakeRemoteComputeNode(RemoteOptions options) {
  return std::make_unique<RemoteComputeNode>(std::move(options));
}

}  // namespace msa::rpc

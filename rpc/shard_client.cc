// MemoryShard over ShardService.
#include <atomic>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "rpc/batching.h"
#include "rpc/block_framing.h"
#include "rpc/client_call.h"
#include "rpc/convert.h"
#include "rpc/query_rows.h"
#include "rpc/remote.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

pb::PutDocumentRequest Header(const EncodedDocument& document) {
  pb::PutDocumentRequest message;
  pb::PutDocumentHeader* header = message.mutable_header();
  header->set_bank(document.bank);
  header->set_bank_uid(document.bank_uid);
  header->set_model_fingerprint(document.model_fingerprint);
  ToProto(document.document, header->mutable_document());
  for (const EncodedPart& part : document.parts) {
    pb::PutPart* to = header->add_parts();
    to->set_reference(part.reference);
    ToProto(part.span, to->mutable_span());
    to->set_num_tokens(part.num_tokens);
    to->set_routing_chunks(part.routing_chunks);
    to->set_content_chunks(part.content_chunks);
    to->set_num_layers(static_cast<int32_t>(part.layers.size()));
  }
  return message;
}

// The header, then the blocks. Stops when the server has ended the call.
void SendDocument(ClientCall* call, const EncodedDocument& document) {
  if (!call->Write(ToBuffer(Header(document)))) return;
  BlockPacker packer;
  for (const EncodedPart& part : document.parts) {
    for (const EncodedLayer& layer : part.layers) {
      packer.Add(layer);
      if (packer.size() >= kBlockMessageBytes && !call->Write(packer.Take())) return;
    }
  }
  if (!packer.empty() && !call->Write(packer.Take())) return;
  call->WritesDone();
}

class RemoteMemoryShard final : public MemoryShard {
 public:
  explicit RemoteMemoryShard(RemoteOptions options)
      : peer_(std::move(options), kShardServiceName) {}

  absl::Status CreateBank(const CallContext& ctx, const BankSpec& spec) override {
    pb::ShardCreateBankRequest request;
    ToProto(spec, request.mutable_spec());
    pb::ShardCreateBankReply reply;
    return Unary("CreateBank", ctx, request, &reply);
  }

  absl::Status DeleteBank(const CallContext& ctx, const std::string& bank) override {
    pb::ShardDeleteBankRequest request;
    request.set_bank(bank);
    pb::ShardDeleteBankReply reply;
    return Unary("DeleteBank", ctx, request, &reply);
  }

  absl::Status DeleteUnusedBank(const CallContext& ctx, const std::string& bank,
                                uint64_t bank_uid) override {
    pb::ShardDeleteUnusedBankRequest request;
    request.set_bank(bank);
    request.set_bank_uid(bank_uid);
    pb::ShardDeleteUnusedBankReply reply;
    return Unary("DeleteUnusedBank", ctx, request, &reply);
  }

  absl::StatusOr<std::vector<BankState>> ListBanks(const CallContext& ctx) override {
    pb::ShardListBanksReply reply;
    MSA_RETURN_IF_ERROR(AskBanks(ctx, &reply));
    std::vector<BankState> banks;
    for (const pb::BankState& bank : reply.banks()) {
      MSA_ASSIGN_OR_RETURN(BankSpec spec, FromProto(bank.spec()));
      banks.push_back({std::move(spec), bank.next_reference(), FromProto(bank.coarse()),
                       bank.references_taken()});
    }
    return banks;
  }

  absl::Status SetCoarse(const CallContext& ctx, const std::string& bank,
                         const CoarseState& state) override {
    pb::ShardSetCoarseRequest request;
    request.set_bank(bank);
    ToProto(state, request.mutable_state());
    pb::ShardSetCoarseReply reply;
    return Unary("SetCoarse", ctx, request, &reply);
  }

  absl::StatusOr<int64_t> TakeReferences(const CallContext& ctx, const std::string& bank,
                                         uint64_t bank_uid, int64_t at_least,
                                         int64_t count) override {
    pb::ShardTakeReferencesRequest request;
    request.set_bank(bank);
    request.set_bank_uid(bank_uid);
    request.set_at_least(at_least);
    request.set_count(count);
    pb::ShardTakeReferencesReply reply;
    const absl::Status status = Unary("TakeReferences", ctx, request, &reply);
    if (absl::IsUnimplemented(status)) {
      return absl::FailedPreconditionError(
          absl::StrCat(peer_.Name(),
                       " is of an earlier release, which gives no reference numbers: "
                       "update the memory nodes, then add again"));
    }
    MSA_RETURN_IF_ERROR(status);
    return reply.first();
  }

  absl::StatusOr<PutResult> PutDocument(const CallContext& ctx,
                                        const EncodedDocument& document) override {
    MSA_RETURN_IF_ERROR(AskPlace(ctx));
    ClientCall call(&peer_, Peer::Kind::kData, "PutDocument", ctx);
    SendDocument(&call, document);
    grpc::ByteBuffer buffer;
    call.Read(&buffer);
    MSA_RETURN_IF_ERROR(call.Finish());
    pb::PutDocumentReply reply;
    MSA_RETURN_IF_ERROR(ReplyFromBuffer(&buffer, &reply));
    return FromProto(reply.result());
  }

  absl::StatusOr<uint64_t> DeleteDocument(const CallContext& ctx, const std::string& bank,
                                          const std::string& id) override {
    pb::ShardDeleteDocumentRequest request;
    request.set_bank(bank);
    request.set_id(id);
    pb::ShardDeleteDocumentReply reply;
    MSA_RETURN_IF_ERROR(Unary("DeleteDocument", ctx, request, &reply));
    return reply.revision();
  }

  absl::StatusOr<std::vector<DeleteResult>> DeleteDocuments(
      const CallContext& ctx, const std::string& bank, absl::Span<const std::string> ids) override {
    pb::ShardDeleteDocumentsRequest request;
    request.set_bank(bank);
    for (const std::string& id : ids) request.add_ids(id);
    pb::ShardDeleteDocumentsReply reply;
    MSA_RETURN_IF_ERROR(Unary("DeleteDocuments", ctx, request, &reply));
    if (static_cast<size_t>(reply.results_size()) != ids.size()) {
      return absl::InternalError("the reply of DeleteDocuments has not one result an id");
    }
    std::vector<DeleteResult> results;
    for (int i = 0; i < reply.results_size(); ++i) {
      const pb::ShardDeleteResult& result = reply.results(i);
      results.push_back({ids[i], FromProto(result.status()), result.revision()});
    }
    return results;
  }

  absl::StatusOr<StoredDocument> GetDocument(const CallContext& ctx, const std::string& bank,
                                             const std::string& id) override {
    pb::ShardGetDocumentRequest request;
    request.set_bank(bank);
    request.set_id(id);
    pb::ShardGetDocumentReply reply;
    MSA_RETURN_IF_ERROR(Unary("GetDocument", ctx, request, &reply));
    return FromProto(reply.document());
  }

  absl::StatusOr<std::vector<DocumentInfo>> ListDocuments(const CallContext& ctx,
                                                          const std::string& bank,
                                                          const std::string& after,
                                                          int32_t limit) override {
    pb::ShardListDocumentsRequest request;
    request.set_bank(bank);
    request.set_after(after);
    request.set_limit(limit);
    MSA_RETURN_IF_ERROR(AskPlace(ctx));
    ClientCall call(&peer_, Peer::Kind::kBrief, "ListDocuments", ctx);
    Send(&call, request);
    std::vector<DocumentInfo> documents;
    MSA_RETURN_IF_ERROR(ReadReplies<pb::ShardListDocumentsReply>(&call, [&](const auto& reply) {
      for (const auto& document : reply.documents()) documents.push_back(FromProto(document));
    }));
    return documents;
  }

  absl::StatusOr<std::vector<PartText>> GetParts(const CallContext& ctx, const std::string& bank,
                                                 uint64_t snapshot_id,
                                                 absl::Span<const int64_t> references) override {
    pb::ShardGetPartsRequest request;
    request.set_bank(bank);
    request.set_snapshot_id(snapshot_id);
    request.mutable_references()->Assign(references.begin(), references.end());
    ClientCall call(&peer_, Peer::Kind::kBrief, "GetParts", ctx);
    Send(&call, request);
    std::vector<PartText> parts;
    MSA_RETURN_IF_ERROR(ReadReplies<pb::ShardGetPartsReply>(&call, [&](const auto& reply) {
      for (const auto& part : reply.parts()) parts.push_back(FromProto(part));
    }));
    return parts;
  }

  absl::StatusOr<Snapshot> OpenSnapshot(const CallContext& ctx, const std::string& bank,
                                        absl::Duration ttl) override {
    pb::OpenSnapshotRequest request;
    request.set_bank(bank);
    request.set_ttl_micros(absl::ToInt64Microseconds(ttl));
    pb::OpenSnapshotReply reply;
    MSA_RETURN_IF_ERROR(Unary("OpenSnapshot", ctx, request, &reply));
    return Snapshot{reply.snapshot_id(), reply.sequence(), reply.num_parts()};
  }

  absl::Status CloseSnapshot(const CallContext& ctx, uint64_t snapshot_id) override {
    pb::CloseSnapshotRequest request;
    request.set_snapshot_id(snapshot_id);
    pb::CloseSnapshotReply reply;
    return Unary("CloseSnapshot", ctx, request, &reply);
  }

  absl::StatusOr<std::vector<RoutedPart>> Route(const CallContext& ctx,
                                                const RouteRequest& request) override {
    pb::ShardRouteRequest message;
    message.set_bank(request.bank);
    message.set_snapshot_id(request.snapshot_id);
    message.set_round(request.round);
    message.set_layer(request.layer);
    message.set_top_k(request.top_k);
    message.set_candidates(request.candidates);
    ClientCall call(&peer_, Peer::Kind::kBrief, "Route", ctx);
    SendQueries(&call, std::move(message), request.queries);
    std::vector<RoutedPart> parts;
    MSA_RETURN_IF_ERROR(ReadReplies<pb::ShardRouteReply>(
        &call, [&](const auto& reply) { parts = FromRepeated(reply.parts()); }));
    return parts;
  }

  absl::StatusOr<std::vector<RankedPart>> Rank(const CallContext& ctx,
                                               const RankRequest& request) override {
    pb::ShardRankRequest message;
    message.set_bank(request.bank);
    message.set_snapshot_id(request.snapshot_id);
    message.set_round(request.round);
    message.set_limit(request.limit);
    message.set_one_per_document(request.one_per_document);
    message.mutable_exclude()->Assign(request.exclude.begin(), request.exclude.end());
    pb::ShardRankReply reply;
    MSA_RETURN_IF_ERROR(Unary("Rank", ctx, message, &reply));
    return FromRepeated(reply.parts());
  }

  absl::Status FetchBlocks(const CallContext& ctx, const FetchRequest& request,
                           const std::function<absl::Status(FetchedBlock)>& sink) override {
    pb::FetchBlocksRequest message;
    message.set_bank(request.bank);
    message.set_snapshot_id(request.snapshot_id);
    message.mutable_references()->Assign(request.references.begin(), request.references.end());
    message.mutable_layers()->Assign(request.layers.begin(), request.layers.end());
    MSA_RETURN_IF_ERROR(AskPlace(ctx));
    ClientCall call(&peer_, Peer::Kind::kData, "FetchBlocks", ctx);
    Send(&call, message);
    grpc::ByteBuffer buffer;
    while (call.Read(&buffer)) MSA_RETURN_IF_ERROR(UnpackFetchedBlocks(&buffer, sink));
    return call.Finish();
  }

  absl::StatusOr<ShardStats> Stats(const CallContext& ctx, const std::string& bank) override {
    pb::ShardStatsRequest request;
    request.set_bank(bank);
    pb::ShardStatsReply reply;
    MSA_RETURN_IF_ERROR(Unary("Stats", ctx, request, &reply));
    return FromProto(reply.stats());
  }

 private:
  absl::Status AskBanks(const CallContext& ctx, pb::ShardListBanksReply* reply) {
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "ListBanks", ctx, pb::ShardListBanksRequest(), reply));
    const std::optional<ShardPlace>& here = peer_.options().place;
    if (here && reply->has_place() && !(FromProto(reply->place()) == *here)) {
      return absl::FailedPreconditionError(absl::StrCat(
          peer_.Name(), " was started as ", ToString(FromProto(reply->place())), ", and is ",
          ToString(*here),
          " in the shard map here: documents would be looked for elsewhere. Start every process "
          "with one map, whose shards have the order, number and slots they were filled with"));
    }
    place_asked_ = true;
    return absl::OkStatus();
  }

  absl::Status AskPlace(const CallContext& ctx) {
    if (!peer_.options().place || place_asked_) return absl::OkStatus();
    pb::ShardListBanksReply reply;
    return AskBanks(ctx, &reply);
  }

  absl::Status Unary(const char* method, const CallContext& ctx,
                     const google::protobuf::Message& request, google::protobuf::Message* reply) {
    MSA_RETURN_IF_ERROR(AskPlace(ctx));
    return CallUnary(&peer_, method, ctx, request, reply);
  }

  Peer peer_;
  std::atomic<bool> place_asked_{false};  // and it is the one here, or was not said
};

}  // namespace

std::unique_ptr<MemoryShard> MakeRemoteMemoryShard(RemoteOptions options) {
  return std::make_unique<RemoteMemoryShard>(std::move(options));
}

}  // namespace msa::rpc

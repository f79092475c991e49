// ShardService over any MemoryShard.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "rpc/batching.h"
#include "rpc/block_framing.h"
#include "rpc/convert.h"
#include "rpc/message_pieces.h"
#include "rpc/query_rows.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

// A document's blocks in all. A part's are bounded by kMaxPartTokens; a text of
// kMaxDocumentTextBytes stays below this for every supported model.
constexpr size_t kMaxDocumentBlockBytes = size_t{8} << 30;

// What the header says of the parts, and how many blocks must follow.
absl::Status ReadHeader(const pb::PutDocumentHeader& in, EncodedDocument* out, size_t* blocks) {
  out->bank = in.bank();
  out->bank_uid = in.bank_uid();
  out->model_fingerprint = in.model_fingerprint();
  out->document = FromProto(in.document());
  *blocks = 0;
  for (const pb::PutPart& part : in.parts()) {
    if (part.num_layers() < 0) return absl::InvalidArgumentError("a part has a negative size");
    EncodedPart to;
    to.reference = part.reference();
    to.span = FromProto(part.span());
    to.num_tokens = part.num_tokens();
    to.routing_chunks = part.routing_chunks();
    to.content_chunks = part.content_chunks();
    out->parts.push_back(std::move(to));
    *blocks += part.num_layers();
  }
  if (*blocks <= static_cast<size_t>(kMaxPiecesWithParts)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the document has more than ", kMaxPiecesWithParts, " blocks"));
}

absl::Status ReadBlocks(ServerCall& call, size_t wanted, std::vector<EncodedLayer>* layers) {
  size_t bytes = 0;
  grpc::ByteBuffer buffer;
  while (call.Read(&buffer)) {
    bytes += buffer.Length();
    MSA_RETURN_IF_ERROR(UnpackPutBlocks(&buffer, layers));
    if (bytes > kMaxDocumentBlockBytes || layers->size() > wanted) {
      return absl::InvalidArgumentError("the document has more blocks than its header says");
    }
  }
  if (layers->size() == wanted) return absl::OkStatus();
  if (call.context().Cancelled()) return absl::CancelledError("the client is gone");
  return absl::InvalidArgumentError(
      absl::StrCat("the document came with ", layers->size(), " blocks of ", wanted));
}

absl::Status PutDocument(MemoryShard* shard, ServerCall& call) {
  grpc::ByteBuffer buffer;
  if (!call.Read(&buffer)) return absl::InvalidArgumentError("the call has no request");
  pb::PutDocumentRequest first;
  MSA_RETURN_IF_ERROR(FromBuffer(&buffer, &first, kMaxPiecesWithParts));
  if (!first.has_header()) return absl::InvalidArgumentError("the first message has no header");
  EncodedDocument document;
  size_t blocks = 0;
  MSA_RETURN_IF_ERROR(ReadHeader(first.header(), &document, &blocks));
  std::vector<EncodedLayer> layers;
  MSA_RETURN_IF_ERROR(ReadBlocks(call, blocks, &layers));
  auto layer = layers.begin();
  for (int i = 0; i < first.header().parts_size(); ++i) {
    const auto end = layer + first.header().parts(i).num_layers();
    document.parts[i].layers.assign(std::make_move_iterator(layer), std::make_move_iterator(end));
    layer = end;
  }
  MSA_ASSIGN_OR_RETURN(const PutResult result, shard->PutDocument(call.context(), document));
  pb::PutDocumentReply reply;
  ToProto(result, reply.mutable_result());
  call.Write(ToBuffer(reply));
  return absl::OkStatus();
}

absl::Status Route(MemoryShard* shard, ServerCall& call) {
  pb::ShardRouteRequest message;
  RouteRequest request;
  MSA_RETURN_IF_ERROR(ReadQueries(call, &message, &request.queries));
  request.bank = message.bank();
  request.snapshot_id = message.snapshot_id();
  request.round = message.round();
  request.layer = message.layer();
  request.top_k = message.top_k();
  request.candidates = message.candidates();
  MSA_ASSIGN_OR_RETURN(const auto parts, shard->Route(call.context(), request));
  pb::ShardRouteReply reply;
  ToRepeated(parts, reply.mutable_parts());
  call.Write(ToBuffer(reply));
  return absl::OkStatus();
}

absl::Status Fetch(MemoryShard* shard, ServerCall& call, const pb::FetchBlocksRequest& message) {
  const FetchRequest request{.bank = message.bank(),
                             .snapshot_id = message.snapshot_id(),
                             .references = ToVector<int64_t>(message.references()),
                             .layers = ToVector<int32_t>(message.layers())};
  BlockPacker packer;
  int32_t layer = -1;  // of what is packed
  const auto send = [&call, &packer] {
    return call.Write(packer.Take()) ? absl::OkStatus()
                                     : absl::CancelledError("the client is gone");
  };
  const absl::Status status =
      shard->FetchBlocks(call.context(), request, [&](FetchedBlock block) -> absl::Status {
        // A layer that is whole is waited for; and a message larger than peers accept would end
        // the call without words.
        const bool next = std::exchange(layer, block.layer) != block.layer;
        if (!packer.empty() &&
            (next || packer.size() + block.record.size() > kMaxRpcMessageBytes / 2)) {
          MSA_RETURN_IF_ERROR(send());
        }
        packer.Add(block);
        return packer.size() < kBlockMessageBytes ? absl::OkStatus() : send();
      });
  // What came before an error is whole and checked: it is sent too.
  if (!packer.empty() && !absl::IsCancelled(status)) MSA_RETURN_IF_ERROR(send());
  return status;
}

void AddBankMethods(RawService* service, MemoryShard* shard, CallPools* pools,
                    std::optional<ShardPlace> place) {
  service->Method("CreateBank", &pools->brief,
                  Unary<pb::ShardCreateBankRequest, pb::ShardCreateBankReply>(
                      [shard](const CallContext& context, const auto& request, auto*) {
                        const auto spec = FromProto(request.spec());
                        return spec.ok() ? shard->CreateBank(context, *spec) : spec.status();
                      }));
  service->Method("DeleteBank", &pools->brief,
                  Unary<pb::ShardDeleteBankRequest, pb::ShardDeleteBankReply>(
                      [shard](const CallContext& context, const auto& request, auto*) {
                        return shard->DeleteBank(context, request.bank());
                      }));
  service->Method("DeleteUnusedBank", &pools->brief,
                  Unary<pb::ShardDeleteUnusedBankRequest, pb::ShardDeleteUnusedBankReply>(
                      [shard](const CallContext& context, const auto& request, auto*) {
                        return shard->DeleteUnusedBank(context, request.bank(), request.bank_uid());
                      }));
  service->Method("ListBanks", &pools->brief,
                  Unary<pb::ShardListBanksRequest, pb::ShardListBanksReply>(
                      [shard, place](const CallContext& context, const auto&, auto* reply) {
                        if (place) ToProto(*place, reply->mutable_place());
                        MSA_ASSIGN_OR_RETURN(const auto banks, shard->ListBanks(context));
                        for (const BankState& bank : banks) {
                          pb::BankState* to = reply->add_banks();
                          ToProto(bank.spec, to->mutable_spec());
                          to->set_next_reference(bank.next_reference);
                          ToProto(bank.coarse, to->mutable_coarse());
                          to->set_references_taken(bank.references_taken);
                        }
                        return absl::OkStatus();
                      }));
  service->Method("SetCoarse", &pools->lengthy,
                  Unary<pb::ShardSetCoarseRequest, pb::ShardSetCoarseReply>(
                      [shard](const CallContext& context, const auto& request, auto*) {
                        return shard->SetCoarse(context, request.bank(),
                                                FromProto(request.state()));
                      }));
  service->Method("Stats", &pools->brief,
                  Unary<pb::ShardStatsRequest, pb::ShardStatsReply>(
                      [shard](const CallContext& context, const auto& request, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(const auto stats,
                                             shard->Stats(context, request.bank()));
                        ToProto(stats, reply->mutable_stats());
                        return absl::OkStatus();
                      }));
}

void AddDocumentMethods(RawService* service, MemoryShard* shard, CallPools* pools) {
  service->Method("TakeReferences", &pools->brief,
                  Unary<pb::ShardTakeReferencesRequest, pb::ShardTakeReferencesReply>(
                      [shard](const CallContext& context, const auto& request, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(
                            const int64_t first,
                            shard->TakeReferences(context, request.bank(), request.bank_uid(),
                                                  request.at_least(), request.count()));
                        reply->set_first(first);
                        return absl::OkStatus();
                      }));
  service->Method("PutDocument", &pools->lengthy,
                  [shard](ServerCall& call) { return PutDocument(shard, call); });
  service->Method("DeleteDocument", &pools->brief,
                  Unary<pb::ShardDeleteDocumentRequest, pb::ShardDeleteDocumentReply>(
                      [shard](const CallContext& context, const auto& request, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(
                            const uint64_t revision,
                            shard->DeleteDocument(context, request.bank(), request.id()));
                        reply->set_revision(revision);
                        return absl::OkStatus();
                      }));
  service->Method("DeleteDocuments", &pools->brief,
                  Unary<pb::ShardDeleteDocumentsRequest, pb::ShardDeleteDocumentsReply>(
                      [shard](const CallContext& context, const auto& request, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(
                            const std::vector<DeleteResult> results,
                            shard->DeleteDocuments(context, request.bank(),
                                                   ToVector<std::string>(request.ids())));
                        for (const DeleteResult& result : results) {
                          pb::ShardDeleteResult* to = reply->add_results();
                          if (!result.status.ok()) ToProto(result.status, to->mutable_status());
                          to->set_revision(result.revision);
                        }
                        return absl::OkStatus();
                      }));
  service->Method("GetDocument", &pools->brief,
                  Unary<pb::ShardGetDocumentRequest, pb::ShardGetDocumentReply>(
                      [shard](const CallContext& context, const auto& request, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(
                            const auto document,
                            shard->GetDocument(context, request.bank(), request.id()));
                        ToProto(document, reply->mutable_document());
                        return absl::OkStatus();
                      }));
  service->Method(
      "ListDocuments", &pools->brief,
      Streaming<pb::ShardListDocumentsRequest>([shard](ServerCall& call, const auto& request) {
        MSA_ASSIGN_OR_RETURN(
            const auto documents,
            shard->ListDocuments(call.context(), request.bank(), request.after(), request.limit()));
        return WriteBatches<pb::ShardListDocumentsReply>(
            call, documents, [](auto* reply) { return reply->mutable_documents(); });
      }));
}

void AddReadMethods(RawService* service, MemoryShard* shard, CallPools* pools) {
  service->Method(
      "GetParts", &pools->brief,
      Streaming<pb::ShardGetPartsRequest>([shard](ServerCall& call, const auto& request) {
        MSA_ASSIGN_OR_RETURN(const auto parts,
                             shard->GetParts(call.context(), request.bank(), request.snapshot_id(),
                                             ToVector<int64_t>(request.references())));
        return WriteBatches<pb::ShardGetPartsReply>(
            call, parts, [](auto* reply) { return reply->mutable_parts(); });
      }));
  service->Method("OpenSnapshot", &pools->brief,
                  Unary<pb::OpenSnapshotRequest, pb::OpenSnapshotReply>(
                      [shard](const CallContext& context, const auto& request, auto* reply) {
                        MSA_ASSIGN_OR_RETURN(
                            const Snapshot snapshot,
                            shard->OpenSnapshot(context, request.bank(),
                                                absl::Microseconds(request.ttl_micros())));
                        reply->set_snapshot_id(snapshot.id);
                        reply->set_sequence(snapshot.sequence);
                        reply->set_num_parts(snapshot.num_parts);
                        return absl::OkStatus();
                      }));
  service->Method("CloseSnapshot", &pools->brief,
                  Unary<pb::CloseSnapshotRequest, pb::CloseSnapshotReply>(
                      [shard](const CallContext& context, const auto& request, auto*) {
                        return shard->CloseSnapshot(context, request.snapshot_id());
                      }));
  service->Method("Route", &pools->brief, [shard](ServerCall& call) { return Route(shard, call); });
  service->Method(
      "Rank", &pools->brief,
      Unary<pb::ShardRankRequest, pb::ShardRankReply>(
          [shard](const CallContext& context, const auto& request, auto* reply) {
            MSA_ASSIGN_OR_RETURN(
                const auto parts,
                shard->Rank(context, {.bank = request.bank(),
                                      .snapshot_id = request.snapshot_id(),
                                      .round = request.round(),
                                      .limit = request.limit(),
                                      .one_per_document = request.one_per_document(),
                                      .exclude = ToVector<int64_t>(request.exclude())}));
            ToRepeated(parts, reply->mutable_parts());
            return absl::OkStatus();
          }));
  service->Method("FetchBlocks", &pools->lengthy,
                  Streaming<pb::FetchBlocksRequest>([shard](ServerCall& call, const auto& request) {
                    return Fetch(shard, call, request);
                  }));
}

}  // namespace

std::unique_ptr<RawService> MakeService(MemoryShard* shard, CallPools* pools,
                                        std::optional<ShardPlace> place) {
  auto service = std::make_unique<RawService>(kShardServiceName);
  AddBankMethods(service.get(), shard, pools, place);
  AddDocumentMethods(service.get(), shard, pools);
  AddReadMethods(service.get(), shard, pools);
  return service;
}

}  // namespace msa::rpc

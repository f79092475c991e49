// MemoryService over any rpc::MemoryService.
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "rpc/convert.h"
#include "rpc/event_stream.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

std::string BankOf(const std::string& name) { return name.empty() ? kDefaultBank : name; }

void ToReply(const AddResult& result, pb::AddDocumentsReply* reply) {
  reply->set_index(result.index);
  // The client knows what it sent; a refused id of megabytes is not sent back.
  reply->set_id(std::string(CutUtf8(result.id, kMaxDocumentIdBytes)));
  if (result.status.ok()) {
    ToProto(result.put, reply->mutable_result());
  } else {
    ToProto(result.status, reply->mutable_status());
  }
}

// The stream's documents one after another. A damaged message ends the stream, and one that names
// another bank than the first: its documents would be in the wrong one. The status is kept.
class DocumentReader {
 public:
  explicit DocumentReader(ServerCall* call) : call_(call) {}

  // The bank comes with the first message. false: the stream is empty or damaged.
  bool Start() {
    if (!Next()) return false;
    bank_ = BankOf(message_.bank());
    return true;
  }
  const std::string& bank() const { return bank_; }
  const absl::Status& status() const { return status_; }

  std::optional<NewDocument> Document() {
    while (held_ || Next()) {
      held_ = false;
      if (!message_.bank().empty() && message_.bank() != bank_) {
        status_ = absl::InvalidArgumentError(
            absl::StrCat("a message of the stream names bank '", message_.bank(),
                         "', the first was for '", bank_,
                         "': what came before is added; send the documents of each bank in a "
                         "stream of its own"));
        break;
      }
      if (message_.has_document()) return FromProto(message_.document());
    }
    return std::nullopt;
  }

 private:
  bool Next() {
    grpc::ByteBuffer buffer;
    if (!status_.ok() || !call_->Read(&buffer)) return false;
    message_.Clear();
    status_ = FromBuffer(&buffer, &message_);
    held_ = status_.ok();
    return held_;
  }

  ServerCall* const call_;
  pb::AddDocumentsRequest message_;
  std::string bank_;
  bool held_ = false;  // message_ was read but not given out
  absl::Status status_;
};

absl::Status AddDocuments(MemoryService* service, ServerCall& call) {
  DocumentReader reader(&call);
  if (!reader.Start()) return reader.status();
  const absl::Status status = service->AddDocuments(
      call.context(), reader.bank(), [&reader] { return reader.Document(); },
      [&call](const AddResult& result) {
        pb::AddDocumentsReply reply;
        ToReply(result, &reply);
        return call.Write(ToBuffer(reply));
      });
  MSA_RETURN_IF_ERROR(status);
  if (call.context().Cancelled()) return absl::CancelledError("the client is gone");
  return reader.status();
}

void AddBankMethods(RawService* out, MemoryService* service, CallPools* pools) {
  out->Method("CreateBank", &pools->brief,
              Unary<pb::CreateBankRequest, pb::CreateBankReply>(
                  [service](const CallContext& context, const auto& request, auto* reply) {
                    MSA_ASSIGN_OR_RETURN(const BankOptions options, FromProto(request.options()));
                    MSA_ASSIGN_OR_RETURN(const BankSpec spec,
                                         service->CreateBank(context, request.name(), options));
                    ToProto(spec, reply->mutable_spec());
                    return absl::OkStatus();
                  }));
  out->Method("DeleteBank", &pools->brief,
              Unary<pb::DeleteBankRequest, pb::DeleteBankReply>(
                  [service](const CallContext& context, const auto& request, auto*) {
                    return service->DeleteBank(context, request.name());
                  }));
  out->Method("SetCoarse", &pools->lengthy,
              Unary<pb::SetCoarseRequest, pb::SetCoarseReply>(
                  [service](const CallContext& context, const auto& request, auto* reply) {
                    MSA_ASSIGN_OR_RETURN(
                        const CoarseState kept,
                        service->SetCoarse(context, request.bank(), FromProto(request.state())));
                    ToProto(kept, reply->mutable_state());
                    return absl::OkStatus();
                  }));
  out->Method("GetModel", &pools->brief,
              Unary<pb::GetModelRequest, pb::GetModelReply>(
                  [service](const CallContext& context, const auto&, auto* reply) {
                    MSA_ASSIGN_OR_RETURN(const ModelInfo model, service->GetModel(context));
                    ToProto(model, reply->mutable_model());
                    return absl::OkStatus();
                  }));
  out->Method("ListBanks", &pools->brief,
              Unary<pb::ListBanksRequest, pb::ListBanksReply>(
                  [service](const CallContext& context, const auto&, auto* reply) {
                    MSA_ASSIGN_OR_RETURN(const auto banks, service->ListBanks(context));
                    ToRepeated(banks, reply->mutable_banks());
                    return absl::OkStatus();
                  }));
}

absl::Status Delete(MemoryService* service, const CallContext& context,
                    const pb::DeleteDocumentsRequest& request, pb::DeleteDocumentsReply* reply) {
  MSA_ASSIGN_OR_RETURN(const auto results,
                       service->DeleteDocuments(context, BankOf(request.bank()),
                                                ToVector<std::string>(request.ids())));
  for (const DeleteResult& result : results) {
    pb::DeleteResult* to = reply->add_results();
    to->set_id(std::string(CutUtf8(result.id, kMaxDocumentIdBytes)));
    if (!result.status.ok()) ToProto(result.status, to->mutable_status());
    to->set_revision(result.revision);
  }
  return absl::OkStatus();
}

absl::Status Stats(MemoryService* service, const CallContext& context,
                   const pb::StatsRequest& request, pb::StatsReply* reply) {
  MSA_ASSIGN_OR_RETURN(const BankStats stats, service->Stats(context, BankOf(request.bank())));
  ToProto(stats.spec, reply->mutable_spec());
  for (const ShardStatsEntry& shard : stats.shards) {
    pb::ShardStatsEntry* to = reply->add_shards();
    to->set_shard(shard.shard);
    if (shard.status.ok()) {
      ToProto(shard.stats, to->mutable_stats());
    } else {
      ToProto(shard.status, to->mutable_status());
    }
  }
  return absl::OkStatus();
}

void AddDocumentMethods(RawService* out, MemoryService* service, CallPools* pools) {
  out->Method("AddDocuments", &pools->fed,
              [service](ServerCall& call) { return AddDocuments(service, call); });
  out->Method("DeleteDocuments", &pools->brief,
              Unary<pb::DeleteDocumentsRequest, pb::DeleteDocumentsReply>(
                  [service](const CallContext& context, const auto& request, auto* reply) {
                    return Delete(service, context, request, reply);
                  }));
  out->Method("GetDocument", &pools->brief,
              Unary<pb::GetDocumentRequest, pb::GetDocumentReply>(
                  [service](const CallContext& context, const auto& request, auto* reply) {
                    MSA_ASSIGN_OR_RETURN(
                        const auto document,
                        service->GetDocument(context, BankOf(request.bank()), request.id()));
                    ToProto(document, reply->mutable_document());
                    return absl::OkStatus();
                  }));
  out->Method("ListDocuments", &pools->brief,
              Unary<pb::ListDocumentsRequest, pb::ListDocumentsReply>(
                  [service](const CallContext& context, const auto& request, auto* reply) {
                    MSA_ASSIGN_OR_RETURN(
                        const DocumentPage page,
                        service->ListDocuments(context, BankOf(request.bank()), request.page_size(),
                                               request.page_token()));
                    ToRepeated(page.documents, reply->mutable_documents());
                    reply->set_next_page_token(page.next_page_token);
                    return absl::OkStatus();
                  }));
  out->Method("Stats", &pools->brief,
              Unary<pb::StatsRequest, pb::StatsReply>(
                  [service](const CallContext& context, const auto& request, auto* reply) {
                    return Stats(service, context, request, reply);
                  }));
}

}  // namespace

std::unique_ptr<RawService> MakeService(MemoryService* service, CallPools* pools) {
  auto out = std::make_unique<RawService>(kMemoryServiceName);
  AddBankMethods(out.get(), service, pools);
  AddDocumentMethods(out.get(), service, pools);
  AddAnswerMethods(out.get(), service, pools);
  return out;
}

}  // namespace msa::rpc

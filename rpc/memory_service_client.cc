// rpc::MemoryService over MemoryService.
#include <thread>
#include <utility>

#include "common/status_macros.h"
#include "rpc/client_call.h"
#include "rpc/convert.h"
#include "rpc/event_stream.h"
#include "rpc/remote.h"
#include "rpc/services.h"

namespace msa::rpc {
namespace {

// The sending half of AddDocuments, on a thread of its own: `next` may wait for the user while
// results come in.
void SendDocuments(ClientCall* call, const std::string& bank,
                   const std::function<std::optional<NewDocument>()>& next) {
  pb::AddDocumentsRequest message;
  message.set_bank(bank);
  // Sent at once, so that an unknown bank is refused before the first document is read.
  if (!call->Write(ToBuffer(message))) return;
  while (std::optional<NewDocument> document = next()) {
    pb::AddDocumentsRequest request;
    ToProto(*document, request.mutable_document());
    if (!call->Write(ToBuffer(request))) return;
  }
  call->WritesDone();
}

AddResult ToResult(const pb::AddDocumentsReply& reply) {
  return {reply.index(), reply.id(), FromProto(reply.status()), FromProto(reply.result())};
}

class RemoteMemoryService final : public MemoryService {
 public:
  explicit RemoteMemoryService(RemoteOptions options)
      : peer_(std::move(options), kMemoryServiceName) {}

  absl::StatusOr<BankSpec> CreateBank(const CallContext& ctx, const std::string& name,
                                      const BankOptions& options) override {
    pb::CreateBankRequest request;
    request.set_name(name);
    ToProto(options, request.mutable_options());
    pb::CreateBankReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "CreateBank", ctx, request, &reply));
    return FromProto(reply.spec());
  }

  absl::Status DeleteBank(const CallContext& ctx, const std::string& name) override {
    pb::DeleteBankRequest request;
    request.set_name(name);
    pb::DeleteBankReply reply;
    return CallUnary(&peer_, "DeleteBank", ctx, request, &reply);
  }

  absl::StatusOr<CoarseState> SetCoarse(const CallContext& ctx, const std::string& bank,
                                        const CoarseState& state) override {
    pb::SetCoarseRequest request;
    request.set_bank(bank);
    ToProto(state, request.mutable_state());
    pb::SetCoarseReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "SetCoarse", ctx, request, &reply));
    return FromProto(reply.state());
  }

  absl::StatusOr<ModelInfo> GetModel(const CallContext& ctx) override {
    pb::GetModelReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "GetModel", ctx, pb::GetModelRequest(), &reply));
    return FromProto(reply.model());
  }

  absl::StatusOr<std::vector<BankSpec>> ListBanks(const CallContext& ctx) override {
    pb::ListBanksReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "ListBanks", ctx, pb::ListBanksRequest(), &reply));
    std::vector<BankSpec> banks;
    for (const pb::BankSpec& bank : reply.banks()) {
      MSA_ASSIGN_OR_RETURN(banks.emplace_back(), FromProto(bank));
    }
    return banks;
  }

  absl::Status AddDocuments(const CallContext& ctx, const std::string& bank,
                            const std::function<std::optional<NewDocument>()>& next,
                            const std::function<bool(const AddResult&)>& done) override {
    ClientCall call(&peer_, Peer::Kind::kStream, "AddDocuments", ctx);
    std::thread sender([&] { SendDocuments(&call, bank, next); });
    absl::Status local;
    grpc::ByteBuffer buffer;
    while (local.ok() && call.Read(&buffer)) {
      pb::AddDocumentsReply reply;
      local = ReplyFromBuffer(&buffer, &reply);
      if (local.ok() && !done(ToResult(reply))) local = absl::CancelledError("the client is gone");
    }
    if (!local.ok()) call.Cancel();
    const absl::Status status = call.Finish();
    if (ctx.input_over) ctx.input_over();
    sender.join();
    return local.ok() ? status : local;
  }

  absl::StatusOr<std::vector<DeleteResult>> DeleteDocuments(
      const CallContext& ctx, const std::string& bank,
      const std::vector<std::string>& ids) override {
    pb::DeleteDocumentsRequest request;
    request.set_bank(bank);
    for (const std::string& id : ids) request.add_ids(id);
    pb::DeleteDocumentsReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "DeleteDocuments", ctx, request, &reply));
    std::vector<DeleteResult> results;
    for (const pb::DeleteResult& result : reply.results()) {
      results.push_back({result.id(), FromProto(result.status()), result.revision()});
    }
    return results;
  }

  absl::StatusOr<StoredDocument> GetDocument(const CallContext& ctx, const std::string& bank,
                                             const std::string& id) override {
    pb::GetDocumentRequest request;
    request.set_bank(bank);
    request.set_id(id);
    pb::GetDocumentReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "GetDocument", ctx, request, &reply));
    return FromProto(reply.document());
  }

  absl::StatusOr<DocumentPage> ListDocuments(const CallContext& ctx, const std::string& bank,
                                             int32_t page_size,
                                             const std::string& page_token) override {
    pb::ListDocumentsRequest request;
    request.set_bank(bank);
    request.set_page_size(page_size);
    request.set_page_token(page_token);
    pb::ListDocumentsReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "ListDocuments", ctx, request, &reply));
    return DocumentPage{FromRepeated(reply.documents()), reply.next_page_token()};
  }

  absl::StatusOr<RetrieveReply> Retrieve(const CallContext& ctx,
                                         const RetrieveRequest& request) override {
    return CallRetrieve(&peer_, ctx, request);
  }

  absl::Status Generate(const CallContext& ctx, const GenerateRequest& request,
                        const EventSink& sink) override {
    return CallGenerate(&peer_, ctx, request, sink);
  }

  absl::StatusOr<BankStats> Stats(const CallContext& ctx, const std::string& bank) override {
    pb::StatsRequest request;
    request.set_bank(bank);
    pb::StatsReply reply;
    MSA_RETURN_IF_ERROR(CallUnary(&peer_, "Stats", ctx, request, &reply));
    BankStats stats;
    MSA_ASSIGN_OR_RETURN(stats.spec, FromProto(reply.spec()));
    for (const pb::ShardStatsEntry& shard : reply.shards()) {
      ShardStatsEntry entry{
          .shard = shard.shard(), .status = FromProto(shard.status()), .stats = {}};
      if (shard.has_stats()) {
        MSA_ASSIGN_OR_RETURN(entry.stats, FromProto(shard.stats()));
      }
      stats.shards.push_back(std::move(entry));
    }
    return stats;
  }

 private:
  Peer peer_;
};

}  // namespace

std::unique_ptr<MemoryService> MakeRemoteMemoryService(RemoteOptions options) {
  return std::make_unique<RemoteMemoryService>(std::move(options));
}

}  // namespace msa::rpc

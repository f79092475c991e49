#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "rpc/admission.h"

namespace msa::rpc {
namespace {

// Questions come with the bank as the client gave it; the router takes an empty one for the
// default.
template <class Request>
Request WithBank(Request request) {
  if (request.bank.empty()) request.bank = kDefaultBank;
  return request;
}

class GuardedService final : public MemoryService {
 public:
  explicit GuardedService(MemoryService* service) : service_(service) {}

  absl::StatusOr<BankSpec> CreateBank(const CallContext& ctx, const std::string& name,
                                      const BankOptions& options) override {
    MSA_RETURN_IF_ERROR(CheckBank(ctx, name));
    return service_->CreateBank(ctx, name, options);
  }
  absl::Status DeleteBank(const CallContext& ctx, const std::string& name) override {
    MSA_RETURN_IF_ERROR(CheckBank(ctx, name));
    return service_->DeleteBank(ctx, name);
  }
  absl::StatusOr<ModelInfo> GetModel(const CallContext& ctx) override {
    return service_->GetModel(ctx);
  }
  absl::StatusOr<std::vector<BankSpec>> ListBanks(const CallContext& ctx) override {
    MSA_ASSIGN_OR_RETURN(std::vector<BankSpec> banks, service_->ListBanks(ctx));
    std::erase_if(banks, [&](const BankSpec& bank) { return !CheckBank(ctx, bank.name).ok(); });
    return banks;
  }
  absl::StatusOr<CoarseState> SetCoarse(const CallContext& ctx, const std::string& bank,
                                        const CoarseState& state) override {
    MSA_RETURN_IF_ERROR(CheckBank(ctx, bank));
    return service_->SetCoarse(ctx, bank, state);
  }
  absl::Status AddDocuments(const CallContext& ctx, const std::string& bank,
                            const std::function<std::optional<NewDocument>()>& next,
                            const std::function<bool(const AddResult&)>& done) override {
    MSA_RETURN_IF_ERROR(CheckBank(ctx, bank));
    return service_->AddDocuments(ctx, bank, next, done);
  }
  absl::StatusOr<std::vector<DeleteResult>> DeleteDocuments(
      const CallContext& ctx, const std::string& bank,
      const std::vector<std::string>& ids) override {
    MSA_RETURN_IF_ERROR(CheckBank(ctx, bank));
    return service_->DeleteDocuments(ctx, bank, ids);
  }
  absl::StatusOr<StoredDocument> GetDocument(const CallContext& ctx, const std::string& bank,
                                             const std::string& id) override {
    MSA_RETURN_IF_ERROR(CheckBank(ctx, bank));
    return service_->GetDocument(ctx, bank, id);
  }
  absl::StatusOr<DocumentPage> ListDocuments(const CallContext& ctx, const std::string& bank,
                                             int32_t page_size,
                                             const std::string& page_token) override {
    MSA_RETURN_IF_ERROR(CheckBank(ctx, bank));
    return service_->ListDocuments(ctx, bank, page_size, page_token);
  }
  absl::StatusOr<RetrieveReply> Retrieve(const CallContext& ctx,
                                         const RetrieveRequest& request) override {
    const RetrieveRequest named = WithBank(request);
    MSA_RETURN_IF_ERROR(CheckBank(ctx, named.bank));
    return service_->Retrieve(ctx, named);
  }
  absl::Status Generate(const CallContext& ctx, const GenerateRequest& request,
                        const EventSink& sink) override {
    const GenerateRequest named = WithBank(request);
    MSA_RETURN_IF_ERROR(CheckBank(ctx, named.bank));
    return service_->Generate(ctx, named, sink);
  }
  absl::StatusOr<BankStats> Stats(const CallContext& ctx, const std::string& bank) override {
    MSA_RETURN_IF_ERROR(CheckBank(ctx, bank));
    return service_->Stats(ctx, bank);
  }

 private:
  MemoryService* const service_;
};

}  // namespace

std::unique_ptr<MemoryService> Guarded(MemoryService* service) {
  return std::make_unique<GuardedService>(service);
}

}  // namespace msa::rpc

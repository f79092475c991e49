// A MemoryService without model or disk, for tests of clients. Documents are kept by id; a question
// routes to the documents that share most words with it, ids breaking ties.
#ifndef MSA_TESTS_SUPPORT_FAKE_MEMORY_SERVICE_H_
#define MSA_TESTS_SUPPORT_FAKE_MEMORY_SERVICE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rpc/memory_service.h"

namespace msa::testing {

// Thread-safe.
class FakeMemoryService : public rpc::MemoryService {
 public:
  // Every later call fails with it, until it is set to OK.
  void FailWith(absl::Status status);
  rpc::GenerateRequest last_generate() const;
  rpc::RetrieveRequest last_retrieve() const;
  rpc::CallContext last_context() const;
  std::vector<rpc::CoarseState> coarse_states() const;  // as they were set, in order

  absl::StatusOr<rpc::BankSpec> CreateBank(const rpc::CallContext& ctx, const std::string& name,
                                           const rpc::BankOptions& options) override;
  absl::Status DeleteBank(const rpc::CallContext& ctx, const std::string& name) override;
  absl::StatusOr<rpc::ModelInfo> GetModel(const rpc::CallContext& ctx) override;
  absl::StatusOr<std::vector<rpc::BankSpec>> ListBanks(const rpc::CallContext& ctx) override;
  absl::StatusOr<rpc::CoarseState> SetCoarse(const rpc::CallContext& ctx, const std::string& bank,
                                             const rpc::CoarseState& state) override;
  absl::Status AddDocuments(const rpc::CallContext& ctx, const std::string& bank,
                            const std::function<std::optional<rpc::NewDocument>()>& next,
                            const std::function<bool(const rpc::AddResult&)>& done) override;
  absl::StatusOr<std::vector<rpc::DeleteResult>> DeleteDocuments(
      const rpc::CallContext& ctx, const std::string& bank,
      const std::vector<std::string>& ids) override;
  absl::StatusOr<rpc::StoredDocument> GetDocument(const rpc::CallContext& ctx,
                                                  const std::string& bank,
                                                  const std::string& id) override;
  absl::StatusOr<rpc::DocumentPage> ListDocuments(const rpc::CallContext& ctx,
                                                  const std::string& bank, int32_t page_size,
                                                  const std::string& page_token) override;
  absl::StatusOr<rpc::RetrieveReply> Retrieve(const rpc::CallContext& ctx,
                                              const rpc::RetrieveRequest& request) override;
  absl::Status Generate(const rpc::CallContext& ctx, const rpc::GenerateRequest& request,
                        const rpc::EventSink& sink) override;
  absl::StatusOr<rpc::BankStats> Stats(const rpc::CallContext& ctx,
                                       const std::string& bank) override;

 private:
  using Documents = std::map<std::string, rpc::StoredDocument>;
  struct Bank {
    rpc::BankSpec spec;
    Documents documents;
    std::map<std::string, uint64_t> revisions;  // of deleted ones too
  };

  absl::StatusOr<Bank*> Find(const rpc::CallContext& ctx, const std::string& name)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static rpc::AddResult Add(Bank& bank, uint64_t index, const rpc::NewDocument& document);
  static std::vector<rpc::RoutedDocument> Rank(const Bank& bank, const std::string& question,
                                               size_t limit);

  mutable absl::Mutex mu_;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Bank> banks_ ABSL_GUARDED_BY(mu_) = {{"default", {}}};
  rpc::GenerateRequest last_generate_ ABSL_GUARDED_BY(mu_);
  rpc::RetrieveRequest last_retrieve_ ABSL_GUARDED_BY(mu_);
  rpc::CallContext last_context_ ABSL_GUARDED_BY(mu_);
  std::vector<rpc::CoarseState> coarse_states_ ABSL_GUARDED_BY(mu_);
};

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_FAKE_MEMORY_SERVICE_H_

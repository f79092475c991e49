// Adds what a DocumentReader gives, under a progress bar: shared by `add` and `eval`.
#ifndef MSA_CLI_DOCUMENT_ADDER_H_
#define MSA_CLI_DOCUMENT_ADDER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cli/document_reader.h"
#include "cli/progress.h"
#include "cli/verb.h"

namespace msa::cli {

struct AddTotals {
  int64_t added = 0;
  int64_t failed = 0;
  int64_t tokens = 0;
  int64_t chunks = 0;
  absl::Status first_failure;
};

class DocumentAdder {
 public:
  // With `json`, an object a line to io.out as each is acknowledged or refused.
  DocumentAdder(DocumentReader& reader, Io& io, bool json);

  // OK when every document was added. Else the stream's own error, or the first document's with
  // the count; the others went on.
  absl::Status Run(rpc::MemoryService& service, rpc::CallContext ctx, const std::string& bank);
  // "300 documents, 45,123 tokens, 83.1 s, 3.6 documents/s, 543 tokens/s".
  std::string Summary() const;
  AddTotals totals() const;

 private:
  std::optional<rpc::NewDocument> Next();
  bool Done(const rpc::AddResult& result);
  void ReportFailure(const std::string& id, const std::string& where, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReportAdded(const rpc::AddResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DrawProgress(uint64_t done_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string SummaryLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  struct Sent {
    std::string where;
    uint64_t end_bytes = 0;  // of the input, once this one was read
  };

  DocumentReader& reader_;  // only Next() reads, and is not called twice at once
  Io& io_;
  const bool json_;
  // Next() and Done() come from different threads.
  mutable absl::Mutex mu_;
  std::vector<Sent> sent_ ABSL_GUARDED_BY(mu_);
  AddTotals totals_ ABSL_GUARDED_BY(mu_);
  Progress progress_ ABSL_GUARDED_BY(mu_);
  absl::Time start_;
};

}  // namespace msa::cli

#endif  // MSA_CLI_DOCUMENT_ADDER_H_

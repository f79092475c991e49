// Banks over all shards: a bank exists on every shard with the same spec, its random uid included.
#ifndef MSA_ROUTER_BANKS_H_
#define MSA_ROUTER_BANKS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "router/compute_pool.h"
#include "router/shard_group.h"
#include "rpc/memory_service.h"
#include "rpc/types.h"

namespace msa::router {

using rpc::kDefaultBank;

struct Bank {
  rpc::BankSpec spec;
  int64_t next_reference = 0;  // the largest of all shards
};

// Thread-safe. Both arguments are borrowed.
class Banks {
 public:
  Banks(const ShardGroup* shards, ComputePool* compute) : shards_(shards), compute_(compute) {}

  // Creations, deletions and completions are one at a time in this process; DEADLINE_EXCEEDED or
  // CANCELLED while waiting for another's end.

  // On all shards or on none: what was made is taken back when a shard fails, unless another router
  // adds to it by then or the first shard cannot be asked. What is left so, or by a process that
  // dies in between, Find or Repair completes; what was taken back from some shards only is refused
  // as a deletion that was not finished.
  absl::StatusOr<rpc::BankSpec> Create(const rpc::CallContext& context, const std::string& name,
                                       const rpc::BankOptions& options);
  // Where a shard fails, what is left of the bank is refused (FAILED_PRECONDITION) until it is
  // deleted again.
  absl::Status Delete(const rpc::CallContext& context, const std::string& name);
  // MemoryService::SetCoarse, of a state whose calibration was checked.
  absl::StatusOr<rpc::CoarseState> SetCoarse(const rpc::CallContext& context,
                                             const std::string& name,
                                             const rpc::CoarseState& state);
  // Names ascending. UNAVAILABLE when a shard does not answer.
  absl::StatusOr<std::vector<rpc::BankSpec>> List(const rpc::CallContext& context);
  // Asks every shard; makes the bank where it is missing, if it never gave a reference: else what
  // is missing may be documents. NOT_FOUND; FAILED_PRECONDITION then, where it was deleted on a
  // shard that lacks it, and when shards hold different banks under the name.
  absl::StatusOr<Bank> Find(const rpc::CallContext& context, const std::string& name);
  // Find; "default" is made when it is not there.
  absl::StatusOr<Bank> FindOrMakeDefault(const rpc::CallContext& context, const std::string& name);
  // Makes every bank that some shards lack there, as Find; the first error of all banks.
  absl::Status Repair(const rpc::CallContext& context);

 private:
  struct Found {
    Bank bank;
    int first_shard = 0;  // has it
    std::vector<int> missing_on;
    int differs_on = -1;  // a shard with another spec under the name
    bool used = false;    // gave references, or had documents
    bool whole() const { return missing_on.empty() && differs_on < 0; }
  };
  absl::StatusOr<std::map<std::string, Found>> Survey(const rpc::CallContext& context) const;
  // Waits until no other change is under way; EndChange says that this one is over.
  absl::Status BeginChange(const rpc::CallContext& context);
  void EndChange();
  // These two within a change: what a deletion has left so far must not be made whole again.
  absl::Status Complete(const rpc::CallContext& context, const Found& found) const;
  absl::Status CreateEverywhere(const rpc::CallContext& context, const rpc::BankSpec& spec) const;
  // Deletes it from the numbering shard and, where that has given no numbers of it, from `others`.
  void TakeBack(const rpc::CallContext& context, const rpc::BankSpec& spec,
                const std::vector<int>& others) const;

  const ShardGroup* const shards_;
  ComputePool* const compute_;
  absl::Mutex mutex_;
  bool changing_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::Status UnknownBank(const std::string& name);

}  // namespace msa::router

#endif  // MSA_ROUTER_BANKS_H_

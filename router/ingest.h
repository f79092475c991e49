// One AddDocuments stream: validation, reference numbers, encoding in parallel, results in order.
#ifndef MSA_ROUTER_INGEST_H_
#define MSA_ROUTER_INGEST_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "router/banks.h"
#include "router/compute_pool.h"
#include "router/observer.h"
#include "router/shard_group.h"
#include "rpc/memory_service.h"
#include "rpc/worker_pool.h"

namespace msa::router {

// The reference numbers of all banks, taken from the shard that gives them: no other router has one
// of these. Thread-safe.
class References {
 public:
  // Borrowed.
  explicit References(const ShardGroup* shards) : shards_(shards) {}

  // The first of `count` numbers in a row, larger than those before. `at_least`: more than any that
  // is stored. Takes more than are asked for once many were, for the next calls: a 32nd of those
  // used, up to 1,024. As MemoryShard::TakeReferences; INTERNAL where the shard gives other numbers
  // than it was asked for.
  absl::StatusOr<int64_t> Next(const rpc::CallContext& context, const rpc::BankSpec& bank,
                               int64_t at_least, int64_t count);

 private:
  absl::Status CheckTaken(int64_t first, int64_t at_least) const;

  struct Taken {
    int64_t next = 0, end = 0;
    int64_t used = 0;
    bool asked = false;  // for more, by one who does not hold the lock; the others wait
  };

  const ShardGroup* const shards_;
  absl::Mutex mutex_;
  std::map<uint64_t, Taken> taken_ ABSL_GUARDED_BY(mutex_);  // by bank uid
};

// What may be encoded at once, over all streams. Thread-safe.
class EncodeBudget {
 public:
  // Up to `always` documents whatever their size; up to `most` while their texts have at most
  // `bytes`: what a document takes until it is stored grows with its text.
  EncodeBudget(int always, int most, size_t bytes)
      : always_(always), most_(most), max_bytes_(bytes) {}

  // Waits for a place, in the order of the calls: a long document is not passed by short ones
  // without end. CANCELLED, DEADLINE_EXCEEDED: none was taken.
  absl::Status Take(const rpc::CallContext& context, size_t text_bytes);
  void GiveBack(size_t text_bytes);

 private:
  const int always_, most_;
  const size_t max_bytes_;
  absl::Mutex mutex_;
  int documents_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::list<size_t> waiting_ ABSL_GUARDED_BY(mutex_);  // their texts' bytes, at most one a stream
};

// All borrowed for the stream.
struct IngestParts {
  const ShardGroup* shards;
  ComputePool* compute;
  Banks* banks;
  References* references;
  rpc::WorkerPool* encoders;
  EncodeBudget* budget;
  int window = 4;  // documents of one stream that are encoded or wait for their turn to be reported
  Observer* observer = nullptr;
};

// As rpc::MemoryService::AddDocuments. `next` is called on this thread; `done` on another of the
// stream's own, in its order. Numbers are given in the order of the stream, to accepted
// documents only. Blocks until all results are reported.
absl::Status AddDocuments(const IngestParts& parts, const rpc::CallContext& context,
                          const std::string& bank,
                          const std::function<std::optional<rpc::NewDocument>()>& next,
                          const std::function<bool(const rpc::AddResult&)>& done);

}  // namespace msa::router

#endif  // MSA_ROUTER_INGEST_H_

#include "router/ingest.h"

#include <xxhash.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>
#include <unordered_set>
#include <utility>

#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "router/validate.h"
#include "rpc/caller.h"

namespace msa::router {
namespace {

constexpr int64_t kMostAhead = 1024;  // numbers
constexpr std::string_view kLate = "the deadline passed before all documents were added";

// Results that become ready in any order, reported in the order of the stream by a thread of the
// stream's own: a client that does not read keeps nobody else's documents from being encoded.
// Thread-safe.
class OrderedReports {
 public:
  explicit OrderedReports(const std::function<bool(const rpc::AddResult&)>& done) : done_(done) {}
  // Drain comes first.
  ~OrderedReports() {
    if (!reporter_.joinable()) return;
    {
      absl::MutexLock lock(&mutex_);
      ended_ = true;
    }
    reporter_.join();
  }

  // Before the first Open.
  absl::Status Begin() {
    try {
      reporter_ = std::thread([this] { Report(); });
    } catch (const std::system_error&) {
      return absl::ResourceExhaustedError(
          "the system has no thread left for another stream of documents: try again later");
    }
    return absl::OkStatus();
  }

  // Waits until fewer than `window` results are open, then opens the next. false: the client wants
  // no more.
  bool Open(size_t window) {
    absl::MutexLock lock(&mutex_);
    const auto room = [this, window]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return open_.size() < window || stopped_;
    };
    mutex_.Await(absl::Condition(&room));
    if (stopped_) return false;
    open_.emplace_back();
    return true;
  }

  void Complete(rpc::AddResult result) {
    absl::MutexLock lock(&mutex_);
    open_[result.index - first_] = std::move(result);
  }

  // Waits until all are reported. false: the client wanted no more.
  bool Drain() {
    absl::MutexLock lock(&mutex_);
    const auto drained = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_.empty(); };
    mutex_.Await(absl::Condition(&drained));
    return !stopped_;
  }

 private:
  bool HasNext() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !open_.empty() && open_.front().has_value();
  }

  void Report() {
    absl::MutexLock lock(&mutex_);
    const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return HasNext() || ended_; };
    while (true) {
      mutex_.Await(absl::Condition(&due));
      if (!HasNext()) return;
      ReportFront();
    }
  }

  // The entry stays in place while it is reported, so that Drain waits for the report.
  void ReportFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const rpc::AddResult result = *std::move(open_.front());
    const bool wanted = !stopped_;
    mutex_.Unlock();
    const bool more = wanted && done_(result);
    mutex_.Lock();
    stopped_ |= !more;
    open_.pop_front();
    ++first_;
  }

  const std::function<bool(const rpc::AddResult&)>& done_;
  std::thread reporter_;
  absl::Mutex mutex_;
  std::deque<std::optional<rpc::AddResult>> open_ ABSL_GUARDED_BY(mutex_);
  uint64_t first_ ABSL_GUARDED_BY(mutex_) = 0;  // index of open_.front()
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

// Ids seen in a stream, as 128-bit hashes: ten million ids must fit in memory.
class SeenIds {
 public:
  // false: seen before.
  bool Insert(const std::string& id) {
    const XXH128_hash_t hash = XXH3_128bits(id.data(), id.size());
    return seen_.insert({hash.low64, hash.high64}).second;
  }

 private:
  struct First {
    size_t operator()(const std::pair<uint64_t, uint64_t>& hash) const { return hash.first; }
  };
  std::unordered_set<std::pair<uint64_t, uint64_t>, First> seen_;
};

absl::Status CheckModel(const rpc::BankSpec& bank, const rpc::ModelInfo& model) {
  if (bank.model_fingerprint == model.fingerprint) {
    const std::optional<DType>& weights = model.default_bank.weights_dtype;
    return weights ? rpc::CheckWeights(bank, *weights) : absl::OkStatus();
  }
  return rpc::AboutNode(absl::FailedPreconditionError(
      StrCat("bank '", bank.name, "' was made by the model ", bank.model_name, " (",
             bank.model_fingerprint, "), this node runs ", model.name, " (", model.fingerprint,
             "): start it with the bank's model, or use another bank")));
}

// Which compute nodes run a bank's model, each asked once: one of another model would split texts
// where its own tokens end. Thread-safe.
class Fitting {
 public:
  explicit Fitting(const rpc::BankSpec& bank) : bank_(bank) {}

  // OK; FAILED_PRECONDITION, rpc::AboutNode; else it could not be asked.
  absl::Status Check(const rpc::CallContext& context, rpc::ComputeNode& node) {
    {
      absl::MutexLock lock(&mutex_);
      const auto known = known_.find(&node);
      if (known != known_.end()) return known->second;
    }
    MSA_ASSIGN_OR_RETURN(const rpc::ModelInfo model, node.Info(context));
    absl::MutexLock lock(&mutex_);
    return known_[&node] = CheckModel(bank_, model);
  }

 private:
  const rpc::BankSpec& bank_;
  absl::Mutex mutex_;
  std::map<const rpc::ComputeNode*, absl::Status> known_ ABSL_GUARDED_BY(mutex_);
};

class Stream {
 public:
  Stream(const IngestParts& parts, const rpc::CallContext& context, Bank bank,
         const std::function<bool(const rpc::AddResult&)>& done)
      : parts_(parts),
        context_(context),
        bank_(std::move(bank)),
        fitting_(bank_.spec),
        reports_(done) {}

  absl::Status Run(const std::function<std::optional<rpc::NewDocument>()>& next) {
    MSA_RETURN_IF_ERROR(reports_.Begin());
    absl::Status status = CallNode([](rpc::ComputeNode&) { return absl::OkStatus(); });
    uint64_t index = 0;
    while (status.ok()) {
      std::optional<rpc::NewDocument> document = next();
      if (!document || !reports_.Open(parts_.window)) break;
      Start(index++, *std::move(document));
      status = CheckMore(index);
    }
    if (!reports_.Drain() && status.ok()) status = absl::CancelledError("the client is gone");
    return status;
  }

 private:
  absl::Status CheckMore(uint64_t documents) const {
    MSA_RETURN_IF_ERROR(rpc::CheckCaller(context_, kLate));
    if (documents >= static_cast<uint64_t>(kMaxDocumentsPerStream)) {
      return absl::InvalidArgumentError(StrCat("the stream has more than ", kMaxDocumentsPerStream,
                                               " documents: send the rest in another"));
    }
    return absl::OkStatus();
  }

  absl::Status CallNode(const std::function<absl::Status(rpc::ComputeNode&)>& call) {
    return parts_.compute->Call(context_, [&](rpc::ComputeNode& node) -> absl::Status {
      MSA_RETURN_IF_ERROR(fitting_.Check(context_, node));
      return call(node);
    });
  }

  void Report(rpc::AddResult result) {
    if (parts_.observer != nullptr) parts_.observer->OnDocument(result.status.code());
    reports_.Complete(std::move(result));
  }

  void Refuse(uint64_t index, std::string id, absl::Status status) {
    Report({index, std::move(id), std::move(status), {}});
  }

  // Numbers are taken here, on the stream's thread, so that they follow the stream's order.
  void Start(uint64_t index, rpc::NewDocument document) {
    absl::StatusOr<rpc::EncodeRequest> request = Prepare(document);
    if (!request.ok()) return Refuse(index, std::move(document.id), request.status());
    request->document = std::move(document);
    const size_t text_bytes = request->document.text.size();
    if (absl::Status place = parts_.budget->Take(context_, text_bytes); !place.ok()) {
      return Refuse(index, std::move(request->document.id), std::move(place));
    }
    auto task = [this, index,
                 request = std::make_shared<const rpc::EncodeRequest>(*std::move(request))] {
      Encode(index, *request);
    };
    if (!parts_.encoders->Submit(task)) task();
  }

  absl::StatusOr<rpc::EncodeRequest> Prepare(const rpc::NewDocument& document) {
    MSA_RETURN_IF_ERROR(CheckDocument(document));
    if (!seen_.Insert(document.id)) {
      return absl::InvalidArgumentError(
          StrCat("the id '", document.id, "' came earlier in this stream"));
    }
    rpc::EncodeRequest request;
    request.bank = bank_.spec;
    request.shard = parts_.shards->ShardOf(document.id);
    const std::string text = document.FullText();
    MSA_RETURN_IF_ERROR(CallNode([&](rpc::ComputeNode& node) -> absl::Status {
      MSA_ASSIGN_OR_RETURN(request.parts,
                           node.SplitDocument(context_, text, bank_.spec.part_tokens));
      return absl::OkStatus();
    }));
    if (request.parts.empty()) return absl::InternalError("the document was split into no parts");
    MSA_ASSIGN_OR_RETURN(request.first_reference,
                         parts_.references->Next(context_, bank_.spec, bank_.next_reference,
                                                 static_cast<int64_t>(request.parts.size())));
    return request;
  }

  // A second attempt after UNAVAILABLE carries the same references and text: a shard that has them
  // already answers with the revision it gave.
  void Encode(uint64_t index, const rpc::EncodeRequest& request) {
    rpc::AddResult result{.index = index, .id = request.document.id, .status = {}, .put = {}};
    result.status = CallNode([&](rpc::ComputeNode& node) -> absl::Status {
      MSA_ASSIGN_OR_RETURN(result.put, node.EncodeDocument(context_, request));
      return absl::OkStatus();
    });
    parts_.budget->GiveBack(request.document.text.size());
    Report(std::move(result));
  }

  const IngestParts& parts_;
  const rpc::CallContext& context_;
  const Bank bank_;
  Fitting fitting_;
  OrderedReports reports_;
  SeenIds seen_;
};

}  // namespace

// Others may be a document's already, or would count on past what can be counted.
absl::Status References::CheckTaken(int64_t first, int64_t at_least) const {
  if (first >= at_least && first <= kMaxReference) return absl::OkStatus();
  return absl::InternalError(StrCat("shard '", shards_->name(kNumberingShard),
                                    "' gave reference numbers from ", first, " on, where ",
                                    at_least, " to ", kMaxReference,
                                    " were asked for: see that it runs this router's release"));
}

absl::StatusOr<int64_t> References::Next(const rpc::CallContext& context, const rpc::BankSpec& bank,
                                         int64_t at_least, int64_t count) {
  absl::MutexLock lock(&mutex_);
  Taken& taken = taken_[bank.uid];
  const auto free = [&taken] { return !taken.asked; };
  MSA_RETURN_IF_ERROR(rpc::AwaitFor(context, mutex_, absl::Condition(&free), kLate));
  if (taken.end - taken.next < count) {
    const int64_t more = std::max(count, std::min(taken.used / 32, kMostAhead));
    // A shard that came back with an older copy of its data may have forgotten what it gave.
    const int64_t least = std::max({int64_t{0}, at_least, taken.end});
    int64_t first = 0;
    taken.asked = true;
    mutex_.Unlock();
    const absl::Status status = shards_->Ask(
        context, kNumberingShard, [&](const rpc::CallContext& limited, int shard) -> absl::Status {
          MSA_ASSIGN_OR_RETURN(first, shards_->shard(shard).TakeReferences(limited, bank.name,
                                                                           bank.uid, least, more));
          return CheckTaken(first, least);
        });
    mutex_.Lock();
    taken.asked = false;
    MSA_RETURN_IF_ERROR(status);
    if (first != taken.end) taken.next = first;  // another's lie between
    taken.end = first + more;
  }
  taken.used += count;
  return std::exchange(taken.next, taken.next + count);
}

absl::Status EncodeBudget::Take(const rpc::CallContext& context, size_t text_bytes) {
  absl::MutexLock lock(&mutex_);
  const auto own = waiting_.insert(waiting_.end(), text_bytes);
  const auto room = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return own == waiting_.begin() &&
           (documents_ < always_ || (documents_ < most_ && bytes_ + text_bytes <= max_bytes_));
  };
  const absl::Status status = rpc::AwaitFor(context, mutex_, absl::Condition(&room), kLate);
  waiting_.erase(own);
  MSA_RETURN_IF_ERROR(status);
  ++documents_;
  bytes_ += text_bytes;
  return absl::OkStatus();
}

void EncodeBudget::GiveBack(size_t text_bytes) {
  absl::MutexLock lock(&mutex_);
  --documents_;
  bytes_ -= text_bytes;
}

absl::Status AddDocuments(const IngestParts& parts, const rpc::CallContext& context,
                          const std::string& bank,
                          const std::function<std::optional<rpc::NewDocument>()>& next,
                          const std::function<bool(const rpc::AddResult&)>& done) {
  MSA_ASSIGN_OR_RETURN(Bank found, parts.banks->FindOrMakeDefault(context, bank));
  return Stream(parts, context, std::move(found), done).Run(next);
}

}  // namespace msa::router

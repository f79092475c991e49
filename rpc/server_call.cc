#include "rpc/server_call.h"

#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <deque>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/strings.h"
#include "rpc/admission.h"

namespace msa::rpc {
namespace {

// Deep enough to keep the socket busy while the handler makes the next message, small enough that
// a slow reader costs a call no more than this.
constexpr size_t kMaxQueuedBytes = 4u << 20;

// Tells an observer and the log, where there are such, that a call began and, once, how it ended.
class ObservedCall {
 public:
  ObservedCall(CallObserver* observer, FailedCalls* failed, std::string_view service,
               std::string_view method)
      : observer_(observer), failed_(failed), service_(service), method_(method) {
    if (observer_ != nullptr) observer_->OnCallBegun(service_, method_);
  }
  void End(absl::StatusCode code, std::string_view why) const {
    const absl::Time now = absl::Now();
    if (failed_ != nullptr) failed_->Ended(service_, method_, code, why, now);
    if (observer_ != nullptr) observer_->OnCallEnded(service_, method_, code, now - begun_);
  }

 private:
  CallObserver* const observer_;
  FailedCalls* const failed_;
  const std::string_view service_, method_;
  const absl::Time begun_ = absl::Now();
};

absl::StatusOr<Admission> AdmissionOf(const grpc::CallbackServerContext& context,
                                      const auth::KeyRing* keys, std::string_view service,
                                      std::string_view method) {
  if (keys == nullptr) return Admission();
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  if (first == last || std::next(first) != last) return Admit(*keys, service, method, "");
  return Admit(*keys, service, method, {first->second.data(), first->second.size()});
}

class Reactor final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                      public ServerCall,
                      public FirstMessages::Call {
 public:
  Reactor(grpc::CallbackServerContext* context, FirstMessages* first_messages, WorkerPool* pool,
          const ServerHandler* handler, ObservedCall observed, absl::StatusOr<Admission> admission)
      : first_messages_(first_messages),
        pool_(pool),
        handler_(handler),
        observed_(observed),
        cancelled_(std::make_shared<std::atomic<bool>>(false)) {
    const auto deadline = context->deadline();
    if (deadline != std::chrono::system_clock::time_point::max()) {
      context_.deadline = absl::FromChrono(deadline);
    }
    const auto& metadata = context->client_metadata();
    if (auto id = metadata.find("x-request-id"); id != metadata.end()) {
      context_.request_id.assign(id->second.data(), std::min<size_t>(id->second.size(), 128));
    }
    context_.cancelled = [flag = cancelled_] { return flag->load(std::memory_order_relaxed); };
    if (!admission.ok()) {
      End(admission.status());  // without a byte of the call read, and without a thread
      return;
    }
    context_.admission = *std::move(admission);
    if (first_messages_ != nullptr) place_ = first_messages_->Await(this);
    StartRead(&incoming_);
  }

  const CallContext& context() const override { return context_; }

  bool Read(grpc::ByteBuffer* message) override {
    absl::MutexLock lock(&mutex_);
    const auto settled = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return read_ != ReadState::kPending;
    };
    mutex_.Await(absl::Condition(&settled));
    if (read_ == ReadState::kEnd) return false;
    message->Swap(&incoming_);
    incoming_.Clear();
    read_ = ReadState::kPending;
    // One message is read ahead, so that the next is there when the handler asks.
    StartRead(&incoming_);
    return true;
  }

  bool Write(grpc::ByteBuffer message) override {
    absl::MutexLock lock(&mutex_);
    const auto room = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return broken_ || queued_bytes_ < kMaxQueuedBytes;
    };
    mutex_.Await(absl::Condition(&room));
    if (broken_) return false;
    queued_bytes_ += message.Length();
    outgoing_.push_back(std::move(message));
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
    return true;
  }

  void OnReadDone(bool ok) override {
    size_t bytes = 0;
    {
      absl::MutexLock lock(&mutex_);
      read_ = ok ? ReadState::kHave : ReadState::kEnd;
      if (started_) return;
      started_ = true;
      bytes = incoming_.Length();
    }
    if (first_messages_ != nullptr) first_messages_->Arrived(place_);
    if (!pool_->Submit([this] { Run(); }, bytes)) {
      End(absl::ResourceExhaustedError(
          "the server is busy: too many calls wait, or too large ones; try again later"));
    }
  }

  // Who sets started_ ends the call.
  bool GiveUp() override {
    absl::MutexLock lock(&mutex_);
    return !std::exchange(started_, true);
  }

  void Late() override {
    End(absl::DeadlineExceededError(StrCat("the call's first message was not whole within ",
                                           absl::FormatDuration(first_messages_->within()),
                                           ": send it faster, or less")));
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    queued_bytes_ -= outgoing_.front().Length();
    outgoing_.pop_front();
    if (!ok) {
      broken_ = true;
      outgoing_.clear();
    }
    if (!outgoing_.empty()) StartWrite(&outgoing_.front());
  }

  void OnCancel() override {
    cancelled_->store(true, std::memory_order_relaxed);
    absl::MutexLock lock(&mutex_);
    broken_ = true;
  }

  void OnDone() override { delete this; }

 private:
  enum class ReadState { kPending, kHave, kEnd };

  void Run() {
    const ScopedRequestId lines(context_.request_id);
    absl::Status status;
    if (context_.Cancelled()) {
      status = absl::CancelledError("the client is gone");
    } else if (absl::Now() >= context_.deadline) {
      status =
          absl::DeadlineExceededError("the deadline passed while the call waited for a thread");
    } else {
      status = (*handler_)(*this);
    }
    {
      // Finish must come after the last write's OnWriteDone. Broken streams get theirs too.
      absl::MutexLock lock(&mutex_);
      const auto drained = [this]()
                               ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return outgoing_.empty(); };
      mutex_.Await(absl::Condition(&drained));
    }
    End(status);
  }

  // The last use of `this`, but for a constructor's.
  void End(const absl::Status& status) {
    const grpc::Status sent = ToGrpc(status);
    observed_.End(status.code(), sent.error_message());
    Finish(sent);
  }

  FirstMessages* const first_messages_;
  FirstMessages::Place place_;
  WorkerPool* const pool_;
  const ServerHandler* const handler_;
  const ObservedCall observed_;
  const std::shared_ptr<std::atomic<bool>> cancelled_;
  CallContext context_;
  absl::Mutex mutex_;
  grpc::ByteBuffer incoming_;
  ReadState read_ ABSL_GUARDED_BY(mutex_) = ReadState::kPending;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<grpc::ByteBuffer> outgoing_ ABSL_GUARDED_BY(mutex_);  // the front is being written
};

}  // namespace

void RawService::Method(const std::string& method, WorkerPool* pool, ServerHandler handler) {
  paths_.push_back("/" + name_ + "/" + method);
  const int index = static_cast<int>(paths_.size()) - 1;
  const std::string_view path = paths_.back();
  auto kept = std::make_shared<const ServerHandler>(std::move(handler));
  AddMethod(new grpc::internal::RpcServiceMethod(
      paths_.back().c_str(), grpc::internal::RpcMethod::BIDI_STREAMING, nullptr));
  MarkMethodRawCallback(index,
                        new grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
                            [this, pool, kept, path](grpc::CallbackServerContext* context) {
                              const std::string_view method = path.substr(name_.size() + 2);
                              return new Reactor(context, first_messages_, pool, kept.get(),
                                                 {observer_, failed_, name_, method},
                                                 AdmissionOf(*context, keys_, name_, method));
                            }));
}

}  // namespace msa::rpc

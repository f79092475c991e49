// The client side of one call, blocking, and the peer it is made to. Only rpc/*.cc includes this
// header.
#ifndef MSA_RPC_CLIENT_CALL_H_
#define MSA_RPC_CLIENT_CALL_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "rpc/remote.h"
#include "rpc/types.h"
#include "rpc/wire.h"

namespace msa::rpc {

// One server, with its connections. Thread-safe.
class Peer {
 public:
  // `service`: "msa.v1.ShardService".
  Peer(RemoteOptions options, std::string service);

  enum class Kind { kBrief, kStream, kData };
  const RemoteOptions& options() const { return options_; }
  const std::string& service() const { return service_; }
  // CheckApiKeyTravels of the options.
  const absl::Status& api_key_travels() const { return api_key_travels_; }
  // As errors call it: "shard 'a' (10.0.0.1:7071)".
  std::string Name() const;
  // Data calls take the data connections in turn.
  std::shared_ptr<grpc::Channel> ChannelFor(Kind kind);
  absl::Time DeadlineFor(Kind kind, const CallContext& context) const;
  // UNAVAILABLE and DEADLINE_EXCEEDED get the peer's name in front. UNAVAILABLE, too, are a
  // deadline that passed before there was a connection, and a call that was cancelled and not by us
  // (`cancelled`): a server that stops ends its calls so. FAILED_PRECONDITION where a peer with a
  // name lets this process not in.
  absl::Status Translate(const grpc::Status& status, grpc::Channel* channel, bool cancelled) const;

 private:
  const RemoteOptions options_;
  const std::string service_;
  const absl::Status api_key_travels_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;  // [0]: all but data
  std::atomic<uint32_t> next_data_{0};
};

// Reads, writes: at most one of each at a time, from any threads. The completion queue is polled
// by whichever thread waits; nothing runs in the background.
class ClientCall {
 public:
  ClientCall(Peer* peer, Peer::Kind kind, const char* method, const CallContext& context);
  // Cancels the call if it has not ended.
  ~ClientCall();

  // false: the call is over, Finish says why. `last`: no more follow.
  bool Write(const grpc::ByteBuffer& message, bool last = false);
  // After a Write with last = false.
  bool WritesDone();
  // false: no more messages, Finish says why.
  bool Read(grpc::ByteBuffer* message);
  void Cancel() {
    cancelled_ = true;
    client_context_.TryCancel();
  }
  // Once, after Read was false or when the rest is not wanted any more.
  absl::Status Finish();

 private:
  enum Tag { kStart, kWrite, kRead, kFinish, kNumTags };
  void* Begin(Tag tag);
  bool Wait(Tag tag);
  // Polls once, unless another thread does.
  void Poll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Peer* const peer_;
  const CallContext& context_;
  const std::shared_ptr<grpc::Channel> channel_;
  absl::Status refused_;  // not OK: the call was never made
  grpc::GenericStub stub_;
  grpc::ClientContext client_context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  bool finished_ = false;
  std::atomic<bool> cancelled_ = false;  // by Cancel()

  struct Operation {
    bool pending = false;
    bool ok = false;
  };
  absl::Mutex mutex_;
  absl::CondVar changed_;
  bool polling_ ABSL_GUARDED_BY(mutex_) = false;
  Operation operations_[kNumTags] ABSL_GUARDED_BY(mutex_);
};

// One request, one reply.
absl::Status CallUnary(Peer* peer, const char* method, const CallContext& context,
                       const google::protobuf::Message& request, google::protobuf::Message* reply,
                       Peer::Kind kind = Peer::Kind::kBrief);

// Sends the one request of a stream of replies. Then Read and Finish.
inline void Send(ClientCall* call, const google::protobuf::Message& request) {
  call->Write(ToBuffer(request), /*last=*/true);
}

}  // namespace msa::rpc

#endif  // MSA_RPC_CLIENT_CALL_H_

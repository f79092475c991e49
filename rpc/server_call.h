// The server side of one call, for handlers that block: the gRPC callback reactor and the service
// that makes one a call. Only rpc/*.cc includes this header.
//
// Every method is registered as a stream of raw buffers in both directions, whatever its .proto
// says: on the wire a unary call is a stream of one message, so one reactor serves all kinds.
#ifndef MSA_RPC_SERVER_CALL_H_
#define MSA_RPC_SERVER_CALL_H_

#include <grpcpp/impl/service_type.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <list>
#include <string>

#include "absl/status/status.h"
#include "auth/key_ring.h"
#include "rpc/call_observer.h"
#include "rpc/failed_calls.h"
#include "rpc/first_messages.h"
#include "rpc/types.h"
#include "rpc/wire.h"
#include "rpc/worker_pool.h"

namespace msa::rpc {

// What a handler sees. Read and Write may be used by one thread each at the same time.
class ServerCall {
 public:
  virtual ~ServerCall() = default;
  // Cancelled when the client went away or the server is stopping.
  virtual const CallContext& context() const = 0;
  // Waits for the next message. false: the client has sent all, or is gone.
  virtual bool Read(grpc::ByteBuffer* message) = 0;
  // Queues a message; waits while more than 4 MiB are queued. false: the client is gone.
  virtual bool Write(grpc::ByteBuffer message) = 0;
};

// Runs on a pool thread; its status ends the call.
using ServerHandler = std::function<absl::Status(ServerCall& call)>;

// The methods of one service of a .proto. Not thread-safe until the server has started, then
// immutable.
class RawService : public grpc::Service {
 public:
  // `name`: as in the .proto with its package, e.g. "msa.v1.ShardService".
  explicit RawService(std::string name) : name_(std::move(name)) {}

  // `pool` is borrowed for the server's life. A call that finds its queue full, in calls or in
  // bytes of their first messages, is refused with RESOURCE_EXHAUSTED.
  void Method(const std::string& method, WorkerPool* pool, ServerHandler handler);
  // Borrowed for the server's life; null: nobody.
  void Observe(CallObserver* observer) { observer_ = observer; }
  // The same; null: as long as they take.
  void Limit(FirstMessages* first_messages) { first_messages_ = first_messages; }
  // The same; null: calls that fail have no lines in the log.
  void Report(FailedCalls* failed) { failed_ = failed; }
  // The same; null: everybody is let in, else those of Admit.
  void Guard(const auth::KeyRing* keys) { keys_ = keys; }
  const std::string& name() const { return name_; }

 private:
  const std::string name_;
  CallObserver* observer_ = nullptr;
  FirstMessages* first_messages_ = nullptr;
  FailedCalls* failed_ = nullptr;
  const auth::KeyRing* keys_ = nullptr;
  // Named methods are kept here: grpc::internal::RpcMethod borrows the name's characters.
  std::list<std::string> paths_;
};

// A handler for one request and one reply: fn(const CallContext&, const Request&, Reply*).
template <class Request, class Reply, class Fn>
ServerHandler Unary(Fn fn, int64_t max_pieces = kMaxPieces) {
  return [fn = std::move(fn), max_pieces](ServerCall& call) -> absl::Status {
    grpc::ByteBuffer buffer;
    if (!call.Read(&buffer)) return absl::InvalidArgumentError("the call has no request");
    Request request;
    if (absl::Status status = FromBuffer(&buffer, &request, max_pieces); !status.ok()) {
      return status;
    }
    Reply reply;
    if (absl::Status status = fn(call.context(), request, &reply); !status.ok()) return status;
    call.Write(ToBuffer(reply));
    return absl::OkStatus();
  };
}

// A handler for one request and a stream of replies: fn(ServerCall&, const Request&).
template <class Request, class Fn>
ServerHandler Streaming(Fn fn) {
  return [fn = std::move(fn)](ServerCall& call) -> absl::Status {
    grpc::ByteBuffer buffer;
    if (!call.Read(&buffer)) return absl::InvalidArgumentError("the call has no request");
    Request request;
    if (absl::Status status = FromBuffer(&buffer, &request); !status.ok()) return status;
    return fn(call, request);
  };
}

}  // namespace msa::rpc

#endif  // MSA_RPC_SERVER_CALL_H_

// Serves any implementation of the five interfaces over gRPC, with the health service and, on
// request, reflection. Calls that fail have lines in the log (failed_calls.h). Free of gRPC
// headers.
#ifndef MSA_RPC_GRPC_SERVER_H_
#define MSA_RPC_GRPC_SERVER_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "auth/key_ring.h"
#include "common/limits.h"
#include "rpc/backup_service.h"
#include "rpc/call_observer.h"
#include "rpc/compute_node.h"
#include "rpc/memory_service.h"
#include "rpc/memory_shard.h"
#include "rpc/session_router.h"
#include "rpc/shard_map.h"
#include "rpc/tls.h"

namespace msa::rpc {

struct ServerOptions {
  bool reflection = false;
  // Per service: threads for short calls, as many for long ones (Generate, Retrieve,
  // EncodeDocument, …), as many for AddDocuments, which waits for its client. Pools are never
  // shared, so that a service waiting for another in the same process cannot take its threads.
  int threads = 32;
  // Questions on their way at once, those that wait for a place too: so many more threads for long
  // calls, made when they are needed.
  int questions = 0;
  // Calls of a kind that wait for a thread, and the bytes of their first messages, which wait with
  // them; more are refused with RESOURCE_EXHAUSTED.
  int queue = 1024;
  size_t queue_bytes = 4 * kMaxRpcMessageBytes;
  // Until a call's first message is whole; later ones of a stream may take any time.
  absl::Duration first_message_within = absl::Minutes(2);
  // Bytes of messages that came in and are still held, of all calls together: past it gRPC takes
  // them in more slowly, then ends calls. 0: 1 GiB; of a server with a MemoryShard, which holds
  // documents' blocks until they are stored, half the memory if that is more.
  size_t incoming_bytes = 0;
  TlsFiles tls = {};                 // plain text when it has no certificate
  CallObserver* observer = nullptr;  // borrowed until the server is gone; null: nobody counts
  // Borrowed until the server is gone: calls are let in as admission.h says, to shards and compute
  // nodes none. Null: all. Health and reflection answer everybody.
  const auth::KeyRing* api_keys = nullptr;
};

// Thread-safe.
class GrpcServer {
 public:
  class Builder {
   public:
    explicit Builder(ServerOptions options = {});
    ~Builder();
    Builder(Builder&&) noexcept;
    Builder& operator=(Builder&&) noexcept;
    // Borrowed until the server is gone. At most one of each.
    // `place`: in the map it was started with; clients under another map are told by it.
    Builder& Add(MemoryShard* shard, std::optional<ShardPlace> place = std::nullopt);
    Builder& Add(SessionRouter* router);
    Builder& Add(ComputeNode* node);
    Builder& Add(MemoryService* service);
    Builder& Add(BackupService* backups);
    // `address`: host:port or unix:path; port 0 takes a free one. Serving when it returns.
    // UNAVAILABLE naming the address when it cannot be listened on. Uses the builder up.
    absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const std::string& address);

   private:
    friend class GrpcServer;
    struct Parts;
    std::unique_ptr<Parts> parts_;
  };

  // Shutdown with no grace.
  ~GrpcServer();

  // The one listened on; 0 for a unix socket.
  int port() const;
  // What the health service says of every service and of "" (overall). Serving from the start.
  void SetServing(bool serving);
  // Health says NOT_SERVING, new calls are refused, running ones may finish for `grace` and are
  // then cancelled. Returns when all have ended. Idempotent.
  void Shutdown(absl::Duration grace);

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_GRPC_SERVER_H_

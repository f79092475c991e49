// Clients of the five interfaces over gRPC. Free of gRPC headers.
//
// Connecting is lazy: making one never fails; a peer that cannot be reached answers UNAVAILABLE,
// with its name, at once when the connection is refused and within the deadline otherwise, and is
// found again by itself when it is back.
#ifndef MSA_RPC_REMOTE_H_
#define MSA_RPC_REMOTE_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "rpc/backup_service.h"
#include "rpc/compute_node.h"
#include "rpc/memory_service.h"
#include "rpc/memory_shard.h"
#include "rpc/session_router.h"
#include "rpc/shard_map.h"
#include "rpc/tls.h"

namespace msa::rpc {

struct RemoteOptions {
  std::string address;  // host:port or unix:path
  std::string name;     // how errors call the peer, e.g. "shard 'a'"; the address is added. Empty:
                        // the address alone
  // Of calls whose context has no deadline: one that ends by itself, one that a client drives
  // (AddDocuments, Generate).
  absl::Duration timeout = absl::Seconds(60);
  absl::Duration stream_timeout = absl::Hours(24);
  absl::Duration max_reconnect_backoff = absl::Seconds(1);
  // Connections for blocks (FetchBlocks, PutDocument) beside the one for everything else: calls
  // are spread over them, and a large block delays no short call.
  int data_connections = 4;
  // Of a shard: where this process's map has it. A shard that says another is not used; one that
  // says none is.
  std::optional<ShardPlace> place = std::nullopt;
  TlsFiles tls = {};         // in plain text when it names nothing to trust
  std::string api_key = {};  // sent with every call as "authorization: Bearer KEY"; empty: none
};

// FAILED_PRECONDITION when an API key would travel where others can read it: in plain text to
// another machine. Every call fails with it.
absl::Status CheckApiKeyTravels(const RemoteOptions& options);

// All thread-safe.

// With a place in `options`, every method: FAILED_PRECONDITION, naming the shard, its address and
// both places, for a node that says another. It says so with its banks, for which it is asked once
// before anything else; it cannot change while it has banks.
std::unique_ptr<MemoryShard> MakeRemoteMemoryShard(RemoteOptions options);
std::unique_ptr<SessionRouter> MakeRemoteSessionRouter(RemoteOptions options);
std::unique_ptr<ComputeNode> MakeRemoteComputeNode(RemoteOptions options);
std::unique_ptr<MemoryService> MakeRemoteMemoryService(RemoteOptions options);
std::unique_ptr<BackupService> MakeRemoteBackupService(RemoteOptions options);

// Asks the health service at `address` once: OK when `service` ("msa.v1.ShardService", …; "" for
// the whole server) is serving, else UNAVAILABLE saying what it answered.
absl::Status CheckHealth(const RemoteOptions& options, const CallContext& context,
                         const std::string& service);

}  // namespace msa::rpc

#endif  // MSA_RPC_REMOTE_H_

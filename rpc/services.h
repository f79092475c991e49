// Makes each interface's gRPC service. Only rpc/*.cc includes this header.
#ifndef MSA_RPC_SERVICES_H_
#define MSA_RPC_SERVICES_H_

#include <cstddef>
#include <memory>
#include <optional>

#include "rpc/backup_service.h"
#include "rpc/compute_node.h"
#include "rpc/memory_service.h"
#include "rpc/memory_shard.h"
#include "rpc/server_call.h"
#include "rpc/session_router.h"
#include "rpc/shard_map.h"
#include "rpc/worker_pool.h"

namespace msa::rpc {

inline constexpr char kShardServiceName[] = "msa.v1.ShardService";
inline constexpr char kRoutingServiceName[] = "msa.v1.RoutingService";
inline constexpr char kComputeServiceName[] = "msa.v1.ComputeService";
inline constexpr char kMemoryServiceName[] = "msa.v1.MemoryService";
inline constexpr char kBackupServiceName[] = "msa.v1.BackupService";

// Where a service's calls run: those that end by themselves soon, those that take as long as what
// is asked of them, and streams that wait for their client, for days if it likes. A pool each, so
// that no kind can starve another.
struct CallPools {
  CallPools(int threads, int lengthy_threads, int queue, size_t queue_bytes)
      : brief(threads, queue, queue_bytes),
        lengthy(lengthy_threads, queue, queue_bytes),
        fed(threads, queue, queue_bytes) {}
  WorkerPool brief;
  WorkerPool lengthy;
  WorkerPool fed;
};

// All borrow their arguments for the service's life.
std::unique_ptr<RawService> MakeService(MemoryShard* shard, CallPools* pools,
                                        std::optional<ShardPlace> place);
std::unique_ptr<RawService> MakeService(SessionRouter* router, CallPools* pools);
std::unique_ptr<RawService> MakeService(ComputeNode* node, CallPools* pools);
std::unique_ptr<RawService> MakeService(MemoryService* service, CallPools* pools);
std::unique_ptr<RawService> MakeService(BackupService* backups, CallPools* pools);

}  // namespace msa::rpc

#endif  // MSA_RPC_SERVICES_H_

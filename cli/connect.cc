#include "cli/connect.h"

#include "absl/time/clock.h"
#include "rpc/remote.h"

namespace msa::cli {

Connector GrpcConnector() {
  return [](const ServerAt& server) -> absl::StatusOr<Connection> {
    rpc::RemoteOptions options;
    options.address = server.address;
    options.tls = server.tls;
    options.api_key = server.api_key;
    options.data_connections = 1;  // clients move no blocks
    return Connection{.keeps = nullptr,
                      .service = rpc::MakeRemoteMemoryService(options),
                      .reachable =
                          [options] {
                            rpc::CallContext ctx;
                            ctx.deadline = absl::Now() + absl::Seconds(2);
                            return rpc::CheckHealth(options, ctx, "").ok();
                          },
                      .about = {},
                      .backups = rpc::MakeRemoteBackupService(options)};
  };
}

}  // namespace msa::cli

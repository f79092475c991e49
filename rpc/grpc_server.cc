#include "rpc/grpc_server.h"

#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "common/file.h"
#include "common/limits.h"
#include "rpc/address.h"
#include "rpc/admission.h"
#include "rpc/allocator.h"
#include "rpc/channel_args.h"
#include "rpc/failed_calls.h"
#include "rpc/services.h"
#include "rpc/tls_credentials.h"

namespace msa::rpc {
namespace {

// gRPC writes its own lines to stderr for what it also reports by status. GRPC_VERBOSITY brings
// them back.
void QuietGrpcLog() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (std::getenv("GRPC_VERBOSITY") == nullptr) {
      gpr_set_log_verbosity(static_cast<gpr_log_severity>(GPR_LOG_SEVERITY_ERROR + 1));
    }
  });
}

// Both plugins apply to servers built afterwards, for the whole process.
void EnablePlugins(bool reflection) {
  static std::once_flag health, reflect;
  std::call_once(health, [] { grpc::EnableDefaultHealthCheckService(true); });
  if (reflection) {
    std::call_once(reflect, [] { grpc::reflection::InitProtoReflectionServerBuilderPlugin(); });
  }
}

constexpr size_t kIncomingBytes = size_t{1} << 30;

// Of the machine, or as many as the group of processes that a container is may take.
size_t MemoryBytes() {
  const size_t machine =
      static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  uint64_t most = 0;
  const auto limit = ReadFile("/sys/fs/cgroup/memory.max", 64);
  const bool limited = limit.ok() && absl::SimpleAtoi(*limit, &most);
  return limited ? std::min<size_t>(machine, most) : machine;
}

}  // namespace

struct GrpcServer::Builder::Parts {
  ServerOptions options;
  std::unique_ptr<MemoryService> guarded;  // null without API keys
  std::vector<std::unique_ptr<CallPools>> pools;
  std::vector<std::unique_ptr<RawService>> services;
  bool takes_blocks = false;

  template <class Interface, class... Options>
  void Add(Interface* implementation, const Options&... its) {
    pools.push_back(std::make_unique<CallPools>(
        options.threads, options.threads + options.questions, options.queue, options.queue_bytes));
    services.push_back(MakeService(implementation, pools.back().get(), its...));
  }

  size_t IncomingBytes() const {
    if (options.incoming_bytes > 0) return options.incoming_bytes;
    return takes_blocks ? std::max(kIncomingBytes, MemoryBytes() / 2) : kIncomingBytes;
  }
};

// Destroyed from the bottom up: the server first, then the services, then what they use.
struct GrpcServer::Impl {
  std::unique_ptr<MemoryService> guarded;
  FailedCalls failed;
  std::unique_ptr<FirstMessages> first_messages;
  std::vector<std::unique_ptr<CallPools>> pools;
  std::vector<std::unique_ptr<RawService>> services;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::once_flag shutdown;
};

GrpcServer::Builder::Builder(ServerOptions options)
    : parts_(new Parts{options, nullptr, {}, {}, false}) {}
GrpcServer::Builder::~Builder() = default;
GrpcServer::Builder::Builder(Builder&&) noexcept = default;
GrpcServer::Builder& GrpcServer::Builder::operator=(Builder&&) noexcept = default;

GrpcServer::Builder& GrpcServer::Builder::Add(MemoryShard* shard, std::optional<ShardPlace> place) {
  parts_->Add(shard, place);
  parts_->takes_blocks = true;
  return *this;
}
GrpcServer::Builder& GrpcServer::Builder::Add(SessionRouter* router) {
  parts_->Add(router);
  return *this;
}
GrpcServer::Builder& GrpcServer::Builder::Add(ComputeNode* node) {
  parts_->Add(node);
  return *this;
}
GrpcServer::Builder& GrpcServer::Builder::Add(BackupService* backups) {
  parts_->Add(backups);
  return *this;
}
GrpcServer::Builder& GrpcServer::Builder::Add(MemoryService* service) {
  if (parts_->options.api_keys == nullptr) {
    parts_->Add(service);
  } else {
    parts_->guarded = Guarded(service);
    parts_->Add(parts_->guarded.get());
  }
  return *this;
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Builder::Start(const std::string& address) {
  KeepFreedMemory();
  QuietGrpcLog();
  EnablePlugins(parts_->options.reflection);
  auto impl = std::make_unique<Impl>();
  impl->guarded = std::move(parts_->guarded);
  impl->pools = std::move(parts_->pools);
  impl->services = std::move(parts_->services);

  grpc::ServerBuilder builder;
  int port = -1;
  builder.AddListeningPort(address, ServerCredentials(parts_->options.tls), &port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMaxRpcMessageBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(kMaxRpcMessageBytes));
  for (const auto& [name, value] : ServerChannelArgs()) builder.AddChannelArgument(name, value);
  grpc::ResourceQuota quota("msa");
  builder.SetResourceQuota(quota.Resize(parts_->IncomingBytes()));
  impl->first_messages = std::make_unique<FirstMessages>(parts_->options.first_message_within);
  for (const auto& service : impl->services) {
    service->Limit(impl->first_messages.get());
    service->Observe(parts_->options.observer);
    service->Report(&impl->failed);
    service->Guard(parts_->options.api_keys);
    builder.RegisterService(service.get());
  }
  impl->server = builder.BuildAndStart();
  const bool unix_socket = address.rfind("unix:", 0) == 0;
  if (impl->server == nullptr || (port <= 0 && !unix_socket)) {
    return CannotListen(address);
  }
  impl->port = unix_socket ? 0 : port;
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(impl)));
  server->SetServing(true);
  return server;
}

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcServer::~GrpcServer() { Shutdown(absl::ZeroDuration()); }

int GrpcServer::port() const { return impl_->port; }

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = impl_->server->GetHealthCheckService();
  if (health == nullptr) return;
  for (const auto& service : impl_->services) health->SetServingStatus(service->name(), serving);
  health->SetServingStatus("", serving);
}

void GrpcServer::Shutdown(absl::Duration grace) {
  std::call_once(impl_->shutdown, [this, grace] {
    SetServing(false);
    impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    impl_->server->Wait();
  });
}

}  // namespace msa::rpc

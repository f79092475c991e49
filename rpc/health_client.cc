// grpc.health.v1.Health/Check. Its two messages are a string and an enum: written by hand rather
// than generated from a copied .proto.
#include <grpcpp/support/slice.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "rpc/client_call.h"
#include "rpc/remote.h"

namespace msa::rpc {
namespace {

constexpr char kServing[] = "\x08\x01";  // HealthCheckResponse{status: SERVING}

// HealthCheckRequest{service}
grpc::ByteBuffer Request(const std::string& service) {
  std::string bytes;
  if (!service.empty()) {
    bytes = absl::StrCat("\x0A", std::string(1, static_cast<char>(service.size())), service);
  }
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace

absl::Status CheckHealth(const RemoteOptions& options, const CallContext& context,
                         const std::string& service) {
  if (service.size() > 127) return absl::InvalidArgumentError("the service's name is too long");
  Peer peer(options, "grpc.health.v1.Health");
  ClientCall call(&peer, Peer::Kind::kBrief, "Check", context);
  call.Write(Request(service), /*last=*/true);
  grpc::ByteBuffer reply;
  const bool got = call.Read(&reply);
  if (absl::Status status = call.Finish(); !status.ok()) return status;
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (got && reply.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  if (bytes == kServing) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(options.address, " is up but not serving"));
}

}  // namespace msa::rpc

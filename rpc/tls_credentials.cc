#include "rpc/tls_credentials.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>

#include "absl/time/clock.h"
#include "rpc/tls_stage.h"

namespace msa::rpc {
namespace {

using Provider = grpc::experimental::CertificateProviderInterface;
using Watched = std::tuple<std::string, std::string, std::string, absl::Duration>;

constexpr unsigned kTakeOverSeconds = 1;  // what was found in order

// Experimental in gRPC, and its only way to read files again.
std::shared_ptr<Provider> WatchAnew(const TlsFiles& files) {
  auto stage = std::make_unique<TlsStage>(files);
  const TlsFiles& staged = stage->staged();
  auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      staged.key, staged.certificate, staged.ca, kTakeOverSeconds);
  std::thread([stage = std::move(stage), every = files.look_every] {
    while (true) {
      absl::SleepFor(every);
      stage->Look().IgnoreError();
    }
  }).detach();
  return provider;
}

// One for all connections with the same files, kept until the process ends: gRPC may look at what
// is staged as long as a connection is there.
std::shared_ptr<Provider> Watch(const TlsFiles& files) {
  static std::mutex mutex;
  static auto& watched = *new std::map<Watched, std::shared_ptr<Provider>>;
  const std::lock_guard lock(mutex);
  auto& provider = watched[{files.ca, files.certificate, files.key, files.look_every}];
  if (provider == nullptr) provider = WatchAnew(files);
  return provider;
}

}  // namespace

std::shared_ptr<grpc::ChannelCredentials> ClientCredentials(const TlsFiles& files) {
  if (!files.connects()) return grpc::InsecureChannelCredentials();
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Watch(files));
  options.watch_root_certs();
  if (files.serves()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentials(const TlsFiles& files) {
  if (!files.serves()) return grpc::InsecureServerCredentials();
  grpc::experimental::TlsServerCredentialsOptions options(Watch(files));
  options.watch_identity_key_cert_pairs();
  if (files.mutual()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace msa::rpc

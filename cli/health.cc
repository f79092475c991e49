// msa health: whether a server serves, for probes and scripts.
#include <ostream>
#include <string>

#include "absl/time/clock.h"
#include "cli/connect.h"
#include "cli/tls_flags.h"
#include "common/status_macros.h"
#include "rpc/remote.h"

namespace msa::cli {
namespace {

class HealthVerb : public Verb {
 public:
  std::string_view name() const override { return "health"; }
  std::string_view help() const override {
    return "Ask any server of a cluster whether it serves: exit code 0, or another";
  }

  void AddFlags(FlagSet& flags) override {
    options_.address = "127.0.0.1:7070";
    flags.Add("--server", &options_.address, "Address of the server, HOST:PORT");
    AddClientTlsFlags(flags, &options_.tls);
    flags.Add("--service", &service_,
              "One service of it, such as msa.v1.ShardService (default: the whole server)");
    flags.AddBounded("--timeout", &timeout_s_, 0.001, 3600,
                     "Seconds until it counts as not serving");
  }

  absl::Status Run(Io& io) override {
    MSA_RETURN_IF_ERROR(CheckServer(options_.address, options_.tls));
    rpc::CallContext ctx;
    ctx.deadline = absl::Now() + absl::Seconds(timeout_s_);
    MSA_RETURN_IF_ERROR(rpc::CheckHealth(options_, ctx, service_));
    io.out << options_.address << " serves\n";
    return absl::OkStatus();
  }

 private:
  rpc::RemoteOptions options_;
  std::string service_;
  double timeout_s_ = 5;
};

}  // namespace

std::unique_ptr<Verb> MakeHealthVerb() { return std::make_unique<HealthVerb>(); }

}  // namespace msa::cli

#include "cli/verb.h"

#include <random>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "cli/exit_code.h"
#include "cli/tls_flags.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "rpc/address.h"

namespace msa::cli {
namespace {

std::string NewRequestId() {
  std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

// A user whom no server answers forgot to start one, or means another. One elsewhere is not started
// from here.
absl::Status SayWhatToDo(const absl::Status& status, const std::string& server) {
  const std::string start =
      rpc::IsLoopback(server)
          ? StrCat("Start one with\n  msa serve --data-dir DIR --model DIR --listen ", server,
                   "\nor")
          : StrCat("See that it runs and listens where this machine reaches it,\nor");
  return absl::Status(
      status.code(),
      StrCat(status.message(), "\nTried the server at ", server, ", which does not answer. ", start,
             " name another with --server or MSA_SERVER. One that speaks TLS wants --tls-ca."));
}

}  // namespace

void ConnectedVerb::AddFlags(FlagSet& flags) {
  timeout_s_ = default_timeout_s();
  flags.Add("--server", &server_, "Address of the server or router, HOST:PORT");
  AddClientTlsFlags(flags, &tls_);
  api_key_.AddFlags(flags);
  if (has_bank()) flags.Add("--bank", &bank_, "Bank of documents");
  flags.Add("--timeout", &timeout_s_, "Seconds after which a call gives up");
  if (has_json()) flags.Add("--json", &json_, "Print JSON, one object a line");
  AddVerbFlags(flags);
}

absl::Status CheckServer(const std::string& address, const rpc::TlsFiles& tls) {
  if (const absl::Status form = rpc::CheckAddress("--server", address); !form.ok()) {
    return UsageError(std::string(form.message()));
  }
  MSA_RETURN_IF_ERROR(rpc::CheckTls(tls));
  if (tls.serves() && !tls.connects()) return UsageError("give --tls-ca with --tls-cert");
  return absl::OkStatus();
}

absl::Status ConnectedVerb::Run(Io& io) {
  MSA_RETURN_IF_ERROR(CheckServer(server_, tls_));
  if (!(timeout_s_ > 0)) return UsageError("--timeout must be more than 0 seconds");
  MSA_ASSIGN_OR_RETURN(const std::string api_key, api_key_.Read());
  absl::StatusOr<Connection> connection = connect_({server_, tls_, api_key});
  if (!connection.ok()) return connection.status();
  const absl::Status status = RunOn(*connection, io);
  if (!absl::IsUnavailable(status) || connection->reachable()) return status;
  return SayWhatToDo(status, server_);
}

rpc::CallContext ConnectedVerb::NewCall() const {
  rpc::CallContext ctx;
  ctx.deadline = absl::Now() + absl::Seconds(timeout_s_);
  ctx.request_id = NewRequestId();
  return ctx;
}

}  // namespace msa::cli

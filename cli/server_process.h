// What every server verb shares: where it listens, what it logs, how it ends.
#ifndef MSA_CLI_SERVER_PROCESS_H_
#define MSA_CLI_SERVER_PROCESS_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "auth/key_ring.h"
#include "cli/early_end.h"
#include "cli/flags.h"
#include "common/log.h"
#include "monitoring/exporter.h"
#include "rpc/grpc_server.h"
#include "rpc/tls.h"

namespace msa::cli {

// Ends the process with kExitUnavailable and a line in the log, unless it has ended by then: a GPU
// that hangs keeps the calls that wait in its driver, and who waits for those, for ever.
void EndWithin(absl::Duration limit);

class ServerProcess {
 public:
  // `listen` is the default of --listen; empty: the verb has another source (SetListen).
  void AddFlags(FlagSet& flags, const std::string& listen);
  // --api-keys, of those that users call.
  void AddApiKeysFlag(FlagSet& flags);

  // First of all, before any thread starts: sets up logging and holds SIGTERM and SIGINT back for
  // Serve, from this thread and all it will start; until then they end the process. A usage error
  // for an address that is none; FAILED_PRECONDITION for one that others can reach where neither
  // certificates nor API keys over TLS keep them out; UNAVAILABLE for one where another program
  // listens. What CheckTls, CheckServes and KeyRing::Open say of the files. With --metrics-listen
  // it answers there from then on, for a process that is `role`: at an address that others can
  // reach, which nothing keeps them out of, only with --insecure-metrics-any.
  absl::Status Prepare(const std::string& role);
  // Where --listen was not given.
  void SetListen(const std::string& address);

  // What the health service says from then on: NOT_SERVING, for good, once `health` gives an error.
  // Asked every second while serving.
  void WatchHealth(std::function<absl::Status()> health) { health_ = std::move(health); }

  // Null without --metrics-listen. For what counts as it happens; lives as long as this.
  monitoring::Exporter* exporter() const { return exporter_.get(); }
  // What /metrics reads while serving, beside what is counted.
  void WatchFigures(monitoring::FigureSource figures) { figures_ = std::move(figures); }

  // Listens, writes the port file, serves until SIGTERM or SIGINT, then drains: new calls are
  // refused, running ones may finish for --drain seconds. A second signal ends the process at once.
  // One with a health to watch ends kEndLimit after those seconds, whatever keeps it.
  absl::Status Serve(rpc::GrpcServer::Builder& builder, std::vector<LogField> fields);

  // For the servers that this one connects to, too.
  const rpc::TlsFiles& tls() const { return tls_; }
  // `questions`: that may be on their way at once.
  rpc::ServerOptions options(int64_t questions = 0) const;

 private:
  absl::Status ListenForMetrics();
  absl::Status CheckListen() const;
  absl::Status WritePortFile(int port) const;
  int AwaitSignal(rpc::GrpcServer& server) const;
  // What /metrics says of this process; a null source for none.
  void Export(bool serving, monitoring::FigureSource figures) const;

  std::string role_;
  std::function<absl::Status()> health_;
  monitoring::FigureSource figures_;
  std::unique_ptr<EarlyEnd> early_end_;             // until it serves
  std::unique_ptr<monitoring::Exporter> exporter_;  // null without --metrics-listen
  std::string metrics_listen_;
  std::string listen_;
  std::string port_file_;
  bool insecure_listen_any_ = false;
  bool insecure_metrics_any_ = false;
  bool reflection_ = false;
  double drain_s_ = 30;
  std::string log_level_ = "info";
  std::string log_format_ = "text";
  rpc::TlsFiles tls_;
  std::string api_keys_file_;
  std::unique_ptr<auth::KeyRing> api_keys_;  // null without --api-keys
};

}  // namespace msa::cli

#endif  // MSA_CLI_SERVER_PROCESS_H_

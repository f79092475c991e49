#include "cli/server_process.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <thread>

#include "absl/time/clock.h"
#include "cli/exit_code.h"
#include "cli/tls_flags.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "rpc/address.h"

namespace msa::cli {
namespace {

constexpr int64_t kMaxQuestionThreads = 4096;
constexpr absl::Duration kEndLimit = absl::Seconds(90);  // a device that hangs shows after 60

sigset_t EndingSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

std::string WithPort(const std::string& address, int port) {
  return StrCat(address.substr(0, address.rfind(':')), ":", port);
}

}  // namespace

void EndWithin(absl::Duration limit) {
  std::thread([limit] {
    absl::SleepFor(limit);
    Log(LogLevel::kError, "ending without what a failed device keeps from ending");
    std::_Exit(kExitUnavailable);
  }).detach();
}

void ServerProcess::AddFlags(FlagSet& flags, const std::string& listen) {
  listen_ = listen;
  flags.Add("--listen", &listen_, "HOST:PORT or unix:PATH to listen on; port 0 takes a free one");
  flags.Add("--port-file", &port_file_, "File to write the port to once it is listened on");
  flags.Add("--insecure-listen-any", &insecure_listen_any_,
            "Listen where others can reach it although nothing keeps them out");
  AddServerTlsFlags(flags, &tls_);
  flags.Add("--metrics-listen", &metrics_listen_,
            "HOST:PORT to answer Prometheus at, GET /metrics, in plain HTTP; none if not given");
  flags.Add("--insecure-metrics-any", &insecure_metrics_any_,
            "Answer Prometheus where others can reach it, whom nothing keeps from reading");
  flags.Add("--reflection", &reflection_, "Offer gRPC reflection");
  flags.AddBounded("--drain", &drain_s_, 0, 86400,
                   "Seconds that running calls may take after SIGTERM");
  flags.AddChoice("--log-level", &log_level_, {"debug", "info", "warning", "error"},
                  "Least level that is logged");
  flags.AddChoice("--log-format", &log_format_, {"text", "json"}, "Form of the log's lines");
}

void ServerProcess::AddApiKeysFlag(FlagSet& flags) {
  flags.Add("--api-keys", &api_keys_file_,
            "File of API keys (msa key): only calls with one are let in, as far as its rights go; "
            "read again when it changes");
}

absl::Status ServerProcess::Prepare(const std::string& role) {
  role_ = role;
  MSA_ASSIGN_OR_RETURN(const LogLevel level, ParseLogLevel(log_level_));
  ConfigureLogging({.level = level, .json = log_format_ == "json"});
  const sigset_t signals = EndingSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  early_end_ = std::make_unique<EarlyEnd>(signals);
  MSA_RETURN_IF_ERROR(rpc::CheckTls(tls_));
  MSA_RETURN_IF_ERROR(rpc::CheckServes(tls_));
  MSA_RETURN_IF_ERROR(ListenForMetrics());
  if (!api_keys_file_.empty()) {
    MSA_ASSIGN_OR_RETURN(api_keys_, auth::KeyRing::Open(api_keys_file_));
  }
  if (listen_.empty()) return absl::OkStatus();
  MSA_RETURN_IF_ERROR(CheckListen());
  return rpc::CheckFree(listen_);  // a taken port is told before a model is loaded
}

absl::Status ServerProcess::CheckListen() const {
  if (const absl::Status form = rpc::CheckAddress("--listen", listen_, 0); !form.ok()) {
    return UsageError(std::string(form.message()));
  }
  if (rpc::IsLoopback(listen_) || tls_.mutual()) return absl::OkStatus();
  if (api_keys_ != nullptr) {
    if (tls_.serves()) return absl::OkStatus();
    return absl::FailedPreconditionError(
        StrCat("refusing to listen on ", listen_,
               " with --api-keys in plain text: keys could be read on their way. Give --tls-cert "
               "and --tls-key, or listen on 127.0.0.1 behind what speaks TLS"));
  }
  if (insecure_listen_any_) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("refusing to listen on ", listen_,
             ": anyone who reaches it could read and change every document. Listen on 127.0.0.1; "
             "or give --tls-cert, --tls-key and --tls-ca to let in only those with a certificate "
             "of yours; or, to serve and router, --tls-cert, --tls-key and --api-keys to let in "
             "only those with a key of yours; or --insecure-listen-any where the network is closed "
             "to others"));
}

absl::Status ServerProcess::ListenForMetrics() {
  if (metrics_listen_.empty()) return absl::OkStatus();
  absl::Status form = rpc::CheckAddress("--metrics-listen", metrics_listen_, 0);
  if (form.ok() && metrics_listen_.rfind("unix:", 0) == 0) {
    form = absl::InvalidArgumentError("--metrics-listen is a socket's path: give HOST:PORT");
  }
  if (!form.ok()) return UsageError(std::string(form.message()));
  if (!rpc::IsLoopback(metrics_listen_) && !insecure_metrics_any_) {
    return absl::FailedPreconditionError(
        StrCat("refusing to answer Prometheus at ", metrics_listen_,
               " in plain HTTP, TLS flags or not: anyone who reaches it could read names of banks "
               "and how large they are. Give --metrics-listen 127.0.0.1:PORT, or "
               "--insecure-metrics-any where the network is closed to others"));
  }
  MSA_ASSIGN_OR_RETURN(exporter_, monitoring::Exporter::Start(metrics_listen_, role_, MSA_VERSION));
  Log(LogLevel::kInfo, "figures for Prometheus are at /metrics",
      {{"address", WithPort(metrics_listen_, exporter_->port())}});
  return absl::OkStatus();
}

void ServerProcess::Export(bool serving, monitoring::FigureSource figures) const {
  if (exporter_ == nullptr) return;
  exporter_->SetServing(serving);
  exporter_->SetSource(std::move(figures));
}

void ServerProcess::SetListen(const std::string& address) {
  if (listen_.empty()) listen_ = address;
}

rpc::ServerOptions ServerProcess::options(int64_t questions) const {
  rpc::ServerOptions options;
  options.questions = static_cast<int>(std::min(questions, kMaxQuestionThreads));
  options.reflection = reflection_;
  options.tls = tls_;
  options.observer = exporter_.get();
  options.api_keys = api_keys_.get();
  return options;
}

// Written whole under another name first: who waits for it never reads half a number.
absl::Status ServerProcess::WritePortFile(int port) const {
  if (port_file_.empty()) return absl::OkStatus();
  const std::string partial = port_file_ + ".partial";
  std::ofstream(partial) << port << "\n";
  if (std::rename(partial.c_str(), port_file_.c_str()) == 0) return absl::OkStatus();
  return absl::PermissionDeniedError(
      StrCat("cannot write --port-file ", port_file_, ": check that its folder exists"));
}

int ServerProcess::AwaitSignal(rpc::GrpcServer& server) const {
  const sigset_t signals = EndingSignals();
  bool serving = true;
  while (true) {
    const timespec interval = {.tv_sec = 1, .tv_nsec = 0};
    const int received = sigtimedwait(&signals, nullptr, &interval);
    if (received > 0) return received;
    if (!serving || health_ == nullptr || health_().ok()) continue;
    serving = false;
    server.SetServing(false);
    if (exporter_ != nullptr) exporter_->SetServing(false);
    Log(LogLevel::kError, "the health service says NOT_SERVING: restart this process",
        {{"why", std::string(health_().message())}});
  }
}

absl::Status ServerProcess::Serve(rpc::GrpcServer::Builder& builder, std::vector<LogField> fields) {
  early_end_ = nullptr;
  MSA_ASSIGN_OR_RETURN(const std::unique_ptr<rpc::GrpcServer> server, builder.Start(listen_));
  const int port = server->port();
  MSA_RETURN_IF_ERROR(WritePortFile(port));
  const std::string address = port == 0 ? listen_ : WithPort(listen_, port);
  fields.insert(fields.begin(), LogField("address", address));
  Export(/*serving=*/true, figures_);
  Log(LogLevel::kInfo, StrCat(role_, " is serving"), fields);

  const int received = AwaitSignal(*server);
  const sigset_t signals = EndingSignals();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  Log(LogLevel::kInfo, "draining: new calls are refused",
      {{"signal", received == SIGTERM ? "SIGTERM" : "SIGINT"}, {"seconds_at_most", drain_s_}});
  if (health_ != nullptr) EndWithin(absl::Seconds(drain_s_) + kEndLimit);
  Export(/*serving=*/false, figures_);
  server->Shutdown(absl::Seconds(drain_s_));
  Export(/*serving=*/false, nullptr);
  Log(LogLevel::kInfo, "stopped");
  return absl::OkStatus();
}

}  // namespace msa::cli

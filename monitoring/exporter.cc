#include "monitoring/exporter.h"

#include <httplib.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/strings.h"
#include "rpc/address.h"

namespace msa::monitoring {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

constexpr size_t kThreads = 2;
constexpr size_t kCodes = 17;  // of gRPC

// Seconds: a get takes one millisecond, an answer of a large model minutes.
const prometheus::Histogram::BucketBoundaries& Buckets() {
  static const auto* const buckets = new prometheus::Histogram::BucketBoundaries{
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};
  return *buckets;
}

// As go-grpc-middleware spells them: "OK", "NotFound", "DeadlineExceeded".
std::string CodeName(absl::StatusCode code) {
  if (code == absl::StatusCode::kOk) return "OK";
  std::string name;
  bool begins = true;
  for (const char c : absl::StatusCodeToString(code)) {  // "NOT_FOUND"
    if (c == '_') {
      begins = true;
      continue;
    }
    name += begins ? c : static_cast<char>(c - 'A' + 'a');
    begins = false;
  }
  return code == absl::StatusCode::kCancelled ? "Canceled" : name;
}

prometheus::Labels ToLabels(const MeterName& name) {
  return {name.labels.begin(), name.labels.end()};
}

class HeldCounter : public Counter {
 public:
  explicit HeldCounter(prometheus::Counter& counter) : counter_(counter) {}
  void Add(double more) override { counter_.Increment(more); }

 private:
  prometheus::Counter& counter_;
};

class HeldHistogram : public Histogram {
 public:
  explicit HeldHistogram(prometheus::Histogram& histogram) : histogram_(histogram) {}
  void Observe(absl::Duration took) override { histogram_.Observe(absl::ToDoubleSeconds(took)); }

 private:
  prometheus::Histogram& histogram_;
};

class HeldCodeCounter : public CodeCounter {
 public:
  HeldCodeCounter(prometheus::Family<prometheus::Counter>& family, prometheus::Labels labels,
                  const char* code_label)
      : family_(family), labels_(std::move(labels)), code_label_(code_label) {}

  void Count(absl::StatusCode code) override {
    std::atomic<prometheus::Counter*>& known = by_code_[static_cast<size_t>(code) % kCodes];
    prometheus::Counter* counter = known.load();
    if (counter == nullptr) {
      prometheus::Labels labels = labels_;
      labels.emplace(code_label_, CodeName(code));
      counter = &family_.Add(labels);
      known = counter;
    }
    counter->Increment();
  }

 private:
  prometheus::Family<prometheus::Counter>& family_;
  const prometheus::Labels labels_;
  const char* const code_label_;
  // Null until one is counted. Two threads may set one at once, to the same.
  std::array<std::atomic<prometheus::Counter*>, kCodes> by_code_ = {};
};

prometheus::MetricFamily ToFamily(Figure figure) {
  prometheus::MetricFamily family;
  family.name = std::move(figure.name);
  family.help = std::move(figure.help);
  const bool counts = figure.kind == Figure::Kind::kCounter;
  family.type = counts ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
  for (Sample& sample : figure.samples) {
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    for (auto& [name, value] : sample.labels) metric.label.push_back({name, std::move(value)});
    (counts ? metric.counter.value : metric.gauge.value) = sample.value;
  }
  return family;
}

// The figures of calls. Those of a method are looked up by its labels once, not at every call.
// Thread-safe.
class Calls {
 public:
  explicit Calls(prometheus::Registry& registry)
      : started_(BuildCounter()
                     .Name("grpc_server_started_total")
                     .Help("Calls begun")
                     .Register(registry)),
        handled_(BuildCounter()
                     .Name("grpc_server_handled_total")
                     .Help("Calls ended, by their code")
                     .Register(registry)),
        seconds_(BuildHistogram()
                     .Name("grpc_server_handling_seconds")
                     .Help("Duration of calls, the wait for a thread included")
                     .Register(registry)) {}

  void Begin(std::string_view service, std::string_view method) {
    Of(service, method).started.Increment();
  }

  void End(std::string_view service, std::string_view method, absl::StatusCode code,
           absl::Duration took) {
    Method& its = Of(service, method);
    its.seconds.Observe(absl::ToDoubleSeconds(took));
    its.handled.Count(code);
  }

 private:
  struct Method {
    prometheus::Counter& started;
    prometheus::Histogram& seconds;
    HeldCodeCounter handled;
  };
  using Name = std::pair<std::string_view, std::string_view>;
  struct ByName {
    using is_transparent = void;
    bool operator()(const Name& a, const Name& b) const { return a < b; }
  };

  Method& Of(std::string_view service, std::string_view method) ABSL_LOCKS_EXCLUDED(mu_) {
    {
      absl::ReaderMutexLock lock(&mu_);
      const auto found = methods_.find(Name(service, method));
      if (found != methods_.end()) return *found->second;
    }
    absl::MutexLock lock(&mu_);
    std::unique_ptr<Method>& its = methods_[{std::string(service), std::string(method)}];
    if (its == nullptr) {
      const prometheus::Labels labels = {{"grpc_service", std::string(service)},
                                         {"grpc_method", std::string(method)}};
      its.reset(new Method{
          started_.Add(labels), seconds_.Add(labels, Buckets()), {handled_, labels, "grpc_code"}});
    }
    return *its;
  }

  prometheus::Family<prometheus::Counter>& started_;
  prometheus::Family<prometheus::Counter>& handled_;
  prometheus::Family<prometheus::Histogram>& seconds_;
  absl::Mutex mu_;
  std::map<std::pair<std::string, std::string>, std::unique_ptr<Method>, ByName> methods_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace

struct Exporter::Impl {
  ~Impl() {
    server.stop();
    if (listening.joinable()) listening.join();
  }

  std::string Text() ABSL_LOCKS_EXCLUDED(mu) {
    std::vector<prometheus::MetricFamily> families = registry.Collect();
    absl::MutexLock lock(&mu);
    if (source != nullptr) {
      for (Figure& figure : source()) {
        if (!figure.samples.empty()) families.push_back(ToFamily(std::move(figure)));
      }
    }
    return prometheus::TextSerializer().Serialize(families);
  }

  prometheus::Registry registry;
  prometheus::Gauge& serving =
      BuildGauge()
          .Name("msa_serving")
          .Help("1 while the process takes calls, 0 while it loads, drains or has failed")
          .Register(registry)
          .Add({});
  Calls calls{registry};
  absl::Mutex mu;
  // What the three Add gave.
  std::vector<std::unique_ptr<Counter>> counters ABSL_GUARDED_BY(mu);
  std::vector<std::unique_ptr<CodeCounter>> code_counters ABSL_GUARDED_BY(mu);
  std::vector<std::unique_ptr<Histogram>> histograms ABSL_GUARDED_BY(mu);
  FigureSource source ABSL_GUARDED_BY(mu);
  httplib::Server server;
  int port = 0;
  std::thread listening;
};

absl::StatusOr<std::unique_ptr<Exporter>> Exporter::Start(const std::string& address,
                                                          const std::string& role,
                                                          const std::string& version) {
  auto impl = std::make_unique<Impl>();
  BuildGauge()
      .Name("msa_build_info")
      .Help("1; what runs is in the labels")
      .Register(impl->registry)
      .Add({{"role", role}, {"version", version}})
      .Set(1);
  httplib::Server& server = impl->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  // Without its own default, SO_REUSEPORT, by which two processes would share a port.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  server.Get("/metrics", [impl = impl.get()](const httplib::Request&, httplib::Response& reply) {
    reply.set_content(impl->Text(), "text/plain; version=0.0.4; charset=utf-8");
  });
  const auto [host, port] = rpc::HostAndPort(address);
  if (port != 0 && server.bind_to_port(host, port)) impl->port = port;
  if (port == 0) impl->port = server.bind_to_any_port(host);
  if (impl->port <= 0) {
    return rpc::CannotListen(StrCat(address, " for metrics"), "--metrics-listen");
  }
  impl->listening = std::thread([&server] { server.listen_after_bind(); });
  while (!server.is_running()) std::this_thread::yield();  // stop() is in vain before
  return std::unique_ptr<Exporter>(new Exporter(std::move(impl)));
}

Exporter::Exporter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Exporter::~Exporter() = default;

int Exporter::port() const { return impl_->port; }

void Exporter::SetServing(bool serving) { impl_->serving.Set(serving ? 1 : 0); }

void Exporter::SetSource(FigureSource source) {
  absl::MutexLock lock(&impl_->mu);
  impl_->source = std::move(source);
}

Counter& Exporter::AddCounter(const MeterName& name) {
  auto& family = BuildCounter().Name(name.name).Help(name.help).Register(impl_->registry);
  absl::MutexLock lock(&impl_->mu);
  return *impl_->counters.emplace_back(std::make_unique<HeldCounter>(family.Add(ToLabels(name))));
}

CodeCounter& Exporter::AddCodeCounter(const MeterName& name) {
  auto& family = BuildCounter().Name(name.name).Help(name.help).Register(impl_->registry);
  absl::MutexLock lock(&impl_->mu);
  return *impl_->code_counters.emplace_back(
      std::make_unique<HeldCodeCounter>(family, ToLabels(name), "code"));
}

Histogram& Exporter::AddHistogram(const MeterName& name) {
  auto& family = BuildHistogram().Name(name.name).Help(name.help).Register(impl_->registry);
  absl::MutexLock lock(&impl_->mu);
  return *impl_->histograms.emplace_back(
      std::make_unique<HeldHistogram>(family.Add(ToLabels(name), Buckets())));
}

void Exporter::OnCallBegun(std::string_view service, std::string_view method) {
  impl_->calls.Begin(service, method);
}

void Exporter::OnCallEnded(std::string_view service, std::string_view method, absl::StatusCode code,
                           absl::Duration took) {
  impl_->calls.End(service, method, code, took);
}

}  // namespace msa::monitoring

// Figures of this process for Prometheus, over HTTP.
#ifndef MSA_MONITORING_EXPORTER_H_
#define MSA_MONITORING_EXPORTER_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "monitoring/figure.h"
#include "monitoring/meter.h"
#include "rpc/call_observer.h"

namespace msa::monitoring {

// Answers GET /metrics in Prometheus's text format: whether the process serves, its version, calls
// (grpc_server_started_total, grpc_server_handled_total, grpc_server_handling_seconds, as other
// gRPC servers name them) and the figures of a source. Plain HTTP, to whoever reaches it.
// Thread-safe.
class Exporter : public rpc::CallObserver {
 public:
  // Listens at `address`, host:port, until it is gone; port 0 takes a free one. `role` is what the
  // process does ("router"). UNAVAILABLE naming the address when it cannot be listened on.
  static absl::StatusOr<std::unique_ptr<Exporter>> Start(const std::string& address,
                                                         const std::string& role,
                                                         const std::string& version);
  ~Exporter() override;

  int port() const;
  // msa_serving: 1 or 0, which it is at first.
  void SetServing(bool serving);
  // Asked at every request, on a thread of the HTTP server, in place of the one before. When this
  // returns, that one is not being asked any more. Null: none.
  void SetSource(FigureSource source);

  // Told from now on, a counter as 0. Of a name and labels that were added before, one that counts
  // on. Valid as long as the exporter. A name has one kind and one set of label names.
  Counter& AddCounter(const MeterName& name);
  CodeCounter& AddCodeCounter(const MeterName& name);  // the code's label is "code"
  Histogram& AddHistogram(const MeterName& name);

  void OnCallBegun(std::string_view service, std::string_view method) override;
  void OnCallEnded(std::string_view service, std::string_view method, absl::StatusCode code,
                   absl::Duration took) override;

 private:
  struct Impl;
  explicit Exporter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace msa::monitoring

#endif  // MSA_MONITORING_EXPORTER_H_

// What compute nodes of this process count for Prometheus, named after vLLM's figures.
#ifndef MSA_CLI_NODE_FIGURES_H_
#define MSA_CLI_NODE_FIGURES_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "compute_node/observer.h"
#include "monitoring/exporter.h"

namespace msa::cli {

// Of all nodes that it observes together. Thread-safe.
class NodeFigures : public compute_node::Observer {
 public:
  explicit NodeFigures(monitoring::Exporter& exporter);

  void OnAnswered(const rpc::DoneEvent& done) override;
  void OnUnanswered(absl::StatusCode code) override;
  void OnRetrieved(const rpc::RetrieveReply& reply) override;
  void OnEncoded(int64_t tokens, absl::Duration took) override;

 private:
  // What answering and retrieving have in common.
  struct Question {
    Question(monitoring::Exporter& exporter, const char* method);
    void Observe(const rpc::Timings& timings);

    monitoring::Histogram &total, &queue, &route, &fetch, &prefill;
  };

  // The checkpoint's ways to end, then those without an answer.
  static constexpr std::array<std::string_view, 6> kReasons = {"stop",         "length", "rounds",
                                                               "no_retrieval", "abort",  "error"};
  void CountEnd(std::string_view reason);

  Question generate_, retrieve_;
  monitoring::Histogram &decode_, &first_token_, &per_token_, &encode_;
  monitoring::Counter &prompt_tokens_, &generated_tokens_, &encoded_tokens_;
  std::array<monitoring::Counter*, kReasons.size()> ended_;
};

// Null without an exporter: nobody counts.
std::unique_ptr<NodeFigures> MakeNodeFigures(monitoring::Exporter* exporter);

}  // namespace msa::cli

#endif  // MSA_CLI_NODE_FIGURES_H_

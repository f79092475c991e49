#include "cli/node_figures.h"

#include <algorithm>

#include "common/check.h"

namespace msa::cli {

NodeFigures::Question::Question(monitoring::Exporter& exporter, const char* method)
    : total(exporter.AddHistogram({"msa_e2e_question_latency_seconds",
                                   "Whole questions, from their arrival at the node",
                                   {{"method", method}}})),
      queue(exporter.AddHistogram({"msa_question_queue_time_seconds",
                                   "Waits of questions for a place among --max-sessions",
                                   {{"method", method}}})),
      route(exporter.AddHistogram({"msa_question_route_time_seconds",
                                   "Waits of a question for what shards select and rank, together",
                                   {{"method", method}}})),
      fetch(
          exporter.AddHistogram({"msa_question_fetch_time_seconds",
                                 "Waits of a question for blocks and texts of documents, together",
                                 {{"method", method}}})),
      prefill(exporter.AddHistogram({"msa_question_prefill_time_seconds",
                                     "Prompts of a question, together, without those waits",
                                     {{"method", method}}})) {}

void NodeFigures::Question::Observe(const rpc::Timings& timings) {
  total.Observe(absl::Milliseconds(timings.total));
  queue.Observe(absl::Milliseconds(timings.queue));
  route.Observe(absl::Milliseconds(timings.route));
  fetch.Observe(absl::Milliseconds(timings.fetch));
  prefill.Observe(absl::Milliseconds(timings.prefill));
}

NodeFigures::NodeFigures(monitoring::Exporter& exporter)
    : generate_(exporter, "Generate"),
      retrieve_(exporter, "Retrieve"),
      decode_(exporter.AddHistogram(
          {"msa_question_decode_time_seconds", "All that a question had written, together"})),
      first_token_(exporter.AddHistogram(
          {"msa_time_to_first_token_seconds",
           "From a question's arrival at the node to the first of its answer's text"})),
      per_token_(exporter.AddHistogram({"msa_time_per_output_token_seconds",
                                        "A question's decode time by the tokens it wrote"})),
      encode_(exporter.AddHistogram(
          {"msa_document_encode_time_seconds",
           "Documents encoded, each with its wait for a batch; storing is not in it"})),
      prompt_tokens_(exporter.AddCounter(
          {"msa_prompt_tokens_total", "Prompt tokens of answered questions, of all rounds"})),
      generated_tokens_(exporter.AddCounter(
          {"msa_generation_tokens_total", "Tokens written for answered questions"})),
      encoded_tokens_(
          exporter.AddCounter({"msa_encoded_tokens_total", "Tokens of documents encoded"})) {
  for (size_t i = 0; i < kReasons.size(); ++i) {
    ended_[i] = &exporter.AddCounter({"msa_questions_total",
                                      "Questions that ended, by why",
                                      {{"finish_reason", std::string(kReasons[i])}}});
  }
}

void NodeFigures::CountEnd(std::string_view reason) {
  const auto found = std::find(kReasons.begin(), kReasons.end(), reason);
  MSA_CHECK(found != kReasons.end());
  ended_[static_cast<size_t>(found - kReasons.begin())]->Add(1);
}

void NodeFigures::OnAnswered(const rpc::DoneEvent& done) {
  const rpc::Timings& timings = done.timings;
  generate_.Observe(timings);
  decode_.Observe(absl::Milliseconds(timings.decode));
  // There may be no text.
  if (timings.first_token > 0) first_token_.Observe(absl::Milliseconds(timings.first_token));
  const int32_t written = done.usage.generated_tokens;
  if (written > 0) per_token_.Observe(absl::Milliseconds(timings.decode) / written);
  prompt_tokens_.Add(done.usage.prompt_tokens);
  generated_tokens_.Add(written);
  CountEnd(done.finish_reason);
}

void NodeFigures::OnUnanswered(absl::StatusCode code) {
  const bool gone =
      code == absl::StatusCode::kCancelled || code == absl::StatusCode::kDeadlineExceeded;
  CountEnd(gone ? "abort" : "error");
}

void NodeFigures::OnRetrieved(const rpc::RetrieveReply& reply) { retrieve_.Observe(reply.timings); }

void NodeFigures::OnEncoded(int64_t tokens, absl::Duration took) {
  encode_.Observe(took);
  encoded_tokens_.Add(static_cast<double>(tokens));
}

std::unique_ptr<NodeFigures> MakeNodeFigures(monitoring::Exporter* exporter) {
  return exporter == nullptr ? nullptr : std::make_unique<NodeFigures>(*exporter);
}

}  // namespace msa::cli

// Cases whose rounds are scripted: what the model is made to write is given, everything else is
// computed.
#include <algorithm>
#include <numeric>

#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/verify/verify.h"

namespace msa::compute_node {
namespace {

using nlohmann::json;

// Compares what a round asks and what it leads to; shared by cases with and without a model.
class RoundChecker {
 public:
  RoundChecker(Dialogue& dialogue, const Tokenizer& tokenizer, const std::string& name,
               const json& round, VerifyReport& report)
      : dialogue_(dialogue), tokenizer_(tokenizer), name_(name), round_(round), report_(report) {}

  absl::StatusOr<RoutingPrompt> Prompt(int32_t top_k) {
    MSA_ASSIGN_OR_RETURN(RoutingPrompt prompt, dialogue_.Prompt());
    std::vector<int32_t> mask(prompt.ids.size(), 0);
    for (int32_t row : prompt.routing_rows) mask[row] = 1;
    std::vector<int32_t> positions(prompt.ids.size());
    std::iota(positions.begin(), positions.end(), 3 + top_k);
    Equal("prompt_text", dialogue_.text());
    Equal("prompt_ids", prompt.ids);
    Equal("routing_mask", mask);
    Equal("positions", positions);
    return prompt;
  }

  // Plays the script into the dialogue. `find` gives the texts of references that exist, ascending.
  template <typename Find>
  absl::Status Play(const Find& find) {
    const auto script = round_.at("script_text").get<std::string>();
    MSA_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer_.Encode(script));
    Equal("script_ids", ids);
    ended_ = !ids.empty() && tokenizer_.TokenId(kMessageEnd) == ids.back();
    if (ended_) ids.pop_back();
    end_ = Dialogue::Judge(script, ended_);
    Equal("another_round", end_ == RoundEnd::kReferences);
    dialogue_.AppendWritten(ids);
    if (end_ == RoundEnd::kReferences) {
      const size_t before = dialogue_.text().size();
      MSA_ASSIGN_OR_RETURN(const auto texts, find(Dialogue::References(script)));
      dialogue_.AppendDocuments(texts);
      Equal("appended_text", dialogue_.text().substr(before));
      Equal("returned_text", dialogue_.text());
    } else if (end_ == RoundEnd::kReply) {
      Equal("returned_text", dialogue_.text());
    }
    return absl::OkStatus();
  }

  template <typename T>
  void Equal(const std::string& field, const T& actual) {
    if (!round_.contains(field) || round_[field].is_null()) return;
    const bool same = round_[field].get<T>() == actual;
    report_.exact.push_back({StrCat(name_, ".", field), same, same ? "" : "differs from the case"});
  }

  RoundEnd end() const { return end_; }

 private:
  Dialogue& dialogue_;
  const Tokenizer& tokenizer_;
  std::string name_;
  const json& round_;
  VerifyReport& report_;
  RoundEnd end_ = RoundEnd::kContinue;
  bool ended_ = false;
};

std::vector<ReferencedText> Existing(const std::vector<ReferencedText>& documents,
                                     std::vector<int64_t> references) {
  std::vector<ReferencedText> found;
  for (int64_t reference : Dialogue::InReadingOrder(std::move(references))) {
    for (const ReferencedText& document : documents) {
      if (document.reference == reference) found.push_back(document);
    }
  }
  return found;
}

absl::Status PlayScenario(const json& scenario, const GoldenCase& golden, const Frames& frames,
                          const std::vector<ReferencedText>& documents, VerifyReport& report) {
  const auto name = scenario.at("name").get<std::string>();
  const auto top_k = golden.input.at("doc_top_k").get<int32_t>();
  Dialogue dialogue(frames, scenario.at("question").get<std::string>());
  int number = 0;
  for (const json& round : scenario.at("rounds")) {
    // The published engine fails there; its own behaviour is not ours to repeat.
    if (round.contains("reference_error")) continue;
    RoundChecker checker(dialogue, frames.tokenizer(), StrCat(name, ".round", ++number), round,
                         report);
    MSA_ASSIGN_OR_RETURN(const RoutingPrompt prompt, checker.Prompt(top_k));
    MSA_RETURN_IF_ERROR(checker.Play(
        [&](std::vector<int64_t> references) -> absl::StatusOr<std::vector<ReferencedText>> {
          return Existing(documents, std::move(references));
        }));
    if (checker.end() != RoundEnd::kFinalQuestion) continue;
    MSA_ASSIGN_OR_RETURN(const auto question, dialogue.FinalQuestion());
    const auto script_tokens = static_cast<int32_t>(round.at("script_ids").size());
    const int32_t position = 3 + top_k + static_cast<int32_t>(prompt.ids.size()) + script_tokens;
    const json fed = {{{"ids", question}, {"first_position", position}}};
    checker.Equal("fed_in_one_step", fed);
    checker.Equal("answer", Dialogue::Answer(golden.input.value("answer_script", "")));
  }
  return absl::OkStatus();
}

// Feeds one token and appends its logits.
absl::Status FeedToken(Node& node, Prefill& state, int32_t id, std::vector<float>& logits) {
  MSA_ASSIGN_OR_RETURN(const NextToken next, node.steps().Feed(state, id, true));
  logits.insert(logits.end(), next.logits.begin(), next.logits.end());
  return absl::OkStatus();
}

// The final question in one step, then greedy tokens up to the forced end of message.
absl::Status AnswerGreedily(CaseEngine& engine, const Dialogue& dialogue, const json& round,
                            const std::string& name, Prefill& state, std::vector<float>& logits,
                            VerifyReport& report) {
  Node& node = engine.node();
  const Transformer& transformer = node.transformer();
  Sampler greedy(0, 0);
  Decoder decoder(transformer, node.tokenizer(), *node.memory().passes, node.steps(), greedy);
  MSA_ASSIGN_OR_RETURN(const auto question, dialogue.FinalQuestion());
  MSA_RETURN_IF_ERROR(
      decoder.Feed(state, question, transformer.config().memory.final_question_causal));
  MSA_ASSIGN_OR_RETURN(const std::vector<float> last, transformer.Logits(state.last_hidden));
  logits.insert(logits.end(), last.begin(), last.end());
  const auto generated = round.at("generated_ids").get<std::vector<int32_t>>();
  const size_t first = round.at("script_ids").size() + 1;
  if (generated.size() <= first) {
    return absl::InvalidArgumentError(
        StrCat(name, " has no generated_ids after its ", first - 1, " script_ids"));
  }
  const size_t vocab = transformer.config().vocab_size;
  std::vector<int32_t> answer;
  // The last entry is forced by the case; the row before it is still compared.
  for (size_t i = first; i + 1 < generated.size(); ++i) {
    answer.push_back(ArgMax(absl::MakeConstSpan(logits).last(vocab)));
    MSA_RETURN_IF_ERROR(FeedToken(node, state, answer.back(), logits));
  }
  const std::vector<int32_t> expected(generated.begin() + first, generated.end() - 1);
  report.exact.push_back({name + ".generated_ids", answer == expected,
                          answer == expected ? "" : "greedy tokens differ"});
  return absl::OkStatus();
}

absl::Status PlayRound(CaseEngine& engine, MemorySession& session, Dialogue& dialogue,
                       const json& round, const std::string& name, Comparer& comparer,
                       VerifyReport& report) {
  Node& node = engine.node();
  const int32_t top_k = node.transformer().config().memory.top_k;
  RoundChecker checker(dialogue, node.tokenizer(), name, round, report);
  MSA_ASSIGN_OR_RETURN(const RoutingPrompt prompt, checker.Prompt(top_k));
  MSA_ASSIGN_OR_RETURN(Prefill state, session.Route({}, prompt, top_k, nullptr));
  engine.CompareRouting(name + ".", comparer);
  MSA_ASSIGN_OR_RETURN(std::vector<float> logits, node.transformer().Logits(state.last_hidden));
  for (int32_t id : round.at("script_ids").get<std::vector<int32_t>>()) {
    MSA_RETURN_IF_ERROR(FeedToken(node, state, id, logits));
  }
  MSA_RETURN_IF_ERROR(checker.Play(
      [&](std::vector<int64_t> references) -> absl::StatusOr<std::vector<ReferencedText>> {
        references = Dialogue::InReadingOrder(std::move(references));
        MSA_ASSIGN_OR_RETURN(auto parts, session.GetParts({}, references));
        std::vector<ReferencedText> texts;
        for (rpc::PartText& part : parts) texts.push_back({part.reference, std::move(part.text)});
        return texts;
      }));
  if (checker.end() == RoundEnd::kFinalQuestion) {
    MSA_RETURN_IF_ERROR(AnswerGreedily(engine, dialogue, round, name, state, logits, report));
  }
  comparer.Tensor(name + ".logits", logits);
  return absl::OkStatus();
}

}  // namespace

absl::Status VerifyPrompts(const GoldenCase& golden, VerifyReport& report) {
  MSA_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(golden.Path("tokenizer")));
  const Frames frames(*tokenizer, /*parse_special_tokens=*/true);
  const std::vector<ReferencedText> documents = golden.Documents();
  for (size_t i = 0; i < documents.size(); ++i) {
    MSA_ASSIGN_OR_RETURN(const auto ids, frames.Document(documents[i]));
    const bool same =
        golden.input["documents"][i].at("token_ids").get<std::vector<int32_t>>() == ids;
    report.exact.push_back({StrCat("documents[", i, "].token_ids"), same, same ? "" : "differ"});
  }
  for (const json& scenario : golden.expected.at("scenarios")) {
    MSA_RETURN_IF_ERROR(PlayScenario(scenario, golden, frames, documents, report));
  }
  return absl::OkStatus();
}

absl::Status VerifyRounds(const GoldenCase& golden, const VerifyOptions& options,
                          VerifyReport& report) {
  Comparer comparer(*golden.tensors, Tolerances::Numeric(), report);
  NodeOptions node_options;
  node_options.model_dir = golden.dir;
  node_options.tokenizer_file = golden.Path("tokenizer");
  if (golden.input.contains("model")) node_options.weights_file = golden.Path("model");
  MSA_ASSIGN_OR_RETURN(auto engine, CaseEngine::Make(options, node_options, golden.Documents()));
  MSA_ASSIGN_OR_RETURN(auto session, engine->OpenSession());
  Dialogue dialogue(engine->frames(), golden.input.at("question").get<std::string>());
  int number = 0;
  for (const json& round : golden.expected.at("rounds")) {
    MSA_RETURN_IF_ERROR(
        PlayRound(*engine, *session, dialogue, round, StrCat("round", ++number), comparer, report));
  }
  return absl::OkStatus();
}

}  // namespace msa::compute_node

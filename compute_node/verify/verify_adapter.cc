// Cases of a real model with a trained adapter: routing, ranking and reading of real text, and the
// plain base model.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/verify/verify.h"

namespace msa::compute_node {
namespace {

using nlohmann::json;

// Scores nearer than this may be in either order: that is what float32 summation leaves open.
constexpr float kOrderMargin = 2e-5f;
// Of how much the model is inclined to refuse, a difference of two logits.
constexpr float kRefusalTolerance = 1e-3f;

std::vector<int64_t> ExpectedRow(const SafetensorsFile& tensors, const std::string& name,
                                 size_t row, size_t width) {
  const TensorView* view = tensors.FindOrNull(name);
  if (view == nullptr) return {};
  const auto values = ToInt64(*view);
  if (!values.ok() || (row + 1) * width > values->size()) return {};
  return {values->begin() + row * width, values->begin() + (row + 1) * width};
}

// Equal as sets, and in order except among scores closer than kOrderMargin.
bool SameSelection(const std::vector<ScoredPart>& actual, const std::vector<int64_t>& expected) {
  if (actual.size() != expected.size()) return false;
  std::set<int64_t> mine;
  for (const ScoredPart& part : actual) mine.insert(part.reference);
  if (mine != std::set<int64_t>(expected.begin(), expected.end())) return false;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i].reference == expected[i]) continue;
    const auto other = std::find_if(actual.begin(), actual.end(), [&](const ScoredPart& part) {
      return part.reference == expected[i];
    });
    if (std::abs(other->score - actual[i].score) > kOrderMargin) return false;
  }
  return true;
}

// A plain prompt of a case and what the published engine wrote after it.
struct PlainPrompt {
  std::string name;
  std::vector<int32_t> ids;
  bool causal;  // false: its tokens all see each other
  int32_t max_tokens;
  std::optional<TokenBias> first;  // on the first token written
  std::vector<int32_t> expected;   // ids; may end with the stop token
};

// Greedy tokens of a prompt; logits of the first.
struct Reading {
  std::vector<float> first_logits;
  std::vector<int32_t> ids;
};

absl::StatusOr<Reading> ReadPlain(Node& node, const PlainPrompt& prompt) {
  Sampler greedy(0, 0);
  Decoder decoder(node.transformer(), node.tokenizer(), *node.memory().passes, node.steps(),
                  greedy);
  Prefill state;
  state.cache = std::make_unique<KvCache>(
      node.transformer().NewCache(static_cast<int64_t>(prompt.ids.size()) + prompt.max_tokens));
  MSA_RETURN_IF_ERROR(decoder.Feed(state, prompt.ids, prompt.causal));
  Reading reading;
  MSA_ASSIGN_OR_RETURN(reading.first_logits, node.transformer().Logits(state.last_hidden));
  DecodeOptions options;
  options.max_new_tokens = prompt.max_tokens;
  options.first = prompt.first;
  MSA_ASSIGN_OR_RETURN(Written written, decoder.Decode({}, state, options));
  reading.ids = std::move(written.ids);
  return reading;
}

// A decode does not return the stop token.
std::vector<int32_t> WithoutStop(const GoldenCase& golden, std::vector<int32_t> ids) {
  if (!ids.empty() && ids.back() == golden.input.at("stop_token").get<int32_t>()) ids.pop_back();
  return ids;
}

absl::StatusOr<Reading> CompareAnswer(const GoldenCase& golden, Node& node,
                                      const PlainPrompt& prompt, Comparer& comparer) {
  MSA_ASSIGN_OR_RETURN(Reading reading, ReadPlain(node, prompt));
  comparer.Tensor(prompt.name + ".logits", reading.first_logits);
  comparer.Equal(prompt.name + ".answer_ids", reading.ids, WithoutStop(golden, prompt.expected));
  return reading;
}

class AdapterVerifier {
 public:
  AdapterVerifier(const GoldenCase& golden, CaseEngine& engine, VerifyReport& report)
      : golden_(golden),
        engine_(engine),
        comparer_(*golden.tensors, Tolerances::Adapter(), report),
        report_(report) {}

  absl::Status Blocks() {
    const auto wanted = golden_.input.at("pooled_documents").get<std::vector<int64_t>>();
    std::vector<ReferencedText> documents;
    for (const ReferencedText& document : golden_.Documents()) {
      if (std::find(wanted.begin(), wanted.end(), document.reference) != wanted.end()) {
        documents.push_back(document);
      }
    }
    engine_.CompareTemplates(comparer_);
    return engine_.CompareBlocks(golden_.input.at("pooled_layers").get<std::vector<int32_t>>(),
                                 documents, comparer_);
  }

  absl::Status Question(size_t index) {
    const json& question = golden_.input.at("questions").at(index);
    const json& expected = golden_.expected.at("questions").at(index);
    const std::string name = StrCat("q", index);
    const Transformer& transformer = engine_.node().transformer();
    const MemoryConfig& memory = transformer.config().memory;
    Dialogue dialogue(engine_.frames(), question.at("question").get<std::string>());
    MSA_ASSIGN_OR_RETURN(const RoutingPrompt prompt, dialogue.Prompt());
    comparer_.Equal(name + ".prompt_ids", prompt.ids,
                    question.at("prompt_ids").get<std::vector<int32_t>>());
    MSA_ASSIGN_OR_RETURN(auto session, engine_.OpenSession());
    PrefillObserver observer(transformer, prompt);
    MSA_ASSIGN_OR_RETURN(const Prefill state, session->Route({}, prompt, memory.top_k, &observer));
    comparer_.Tensor(name + ".prefill.hidden_last", observer.LastHidden());
    MSA_ASSIGN_OR_RETURN(const std::vector<float> logits, transformer.Logits(state.last_hidden));
    comparer_.Tensor(name + ".prefill.logits", logits);
    CompareLayers(name, memory.router_layers);
    MSA_ASSIGN_OR_RETURN(const auto ranked, session->Rank({}, 5, {}, false));
    std::vector<int64_t> ranking;
    for (const rpc::RankedPart& part : ranked) ranking.push_back(part.scored.reference);
    comparer_.Equal(name + ".ranking", ranking, expected.at("ranking").get<std::vector<int64_t>>());
    return Reader(name, question, expected.at("reader"), ranking);
  }

 private:
  void CompareLayers(const std::string& name, const std::vector<int32_t>& layers) {
    std::vector<float> scores;
    for (size_t row = 0; row < layers.size(); ++row) {
      const TracingRouter::Trace& trace = engine_.router().traces().at(layers[row]);
      scores.insert(scores.end(), trace.all_scores.begin(), trace.all_scores.end());
      comparer_.Tensor(StrCat(name, ".layers.", layers[row], ".folded_q"), trace.queries);
      const auto expected =
          ExpectedRow(*golden_.tensors, name + ".selected", row, trace.selected.size());
      const bool same = SameSelection(trace.selected, expected);
      comparer_.AddExact(StrCat(name, ".layers.", layers[row], ".selected"), same,
                         same ? "" : "another set, or another order beyond the margin");
    }
    // Of more documents the router gives no score of each.
    if (scores.size() <= layers.size() * kMaxTopK) comparer_.Tensor(name + ".doc_scores", scores);
    report_.used.insert(name + ".selected");  // row by row, above
  }

  absl::Status Reader(const std::string& name, const json& question, const json& reader,
                      std::vector<int64_t> ranking) {
    const auto read = golden_.input.at("reader_documents").get<int64_t>();
    if (read < 1) {
      return absl::InvalidArgumentError(StrCat("reader_documents is ", read, ": use 1 or more"));
    }
    ranking.resize(std::min(static_cast<size_t>(read), ranking.size()));
    std::sort(ranking.begin(), ranking.end());
    comparer_.Equal(name + ".reader.documents", ranking,
                    reader.at("documents").get<std::vector<int64_t>>());
    std::vector<ReferencedText> texts;
    for (const ReferencedText& document : golden_.Documents()) {
      if (std::binary_search(ranking.begin(), ranking.end(), document.reference)) {
        texts.push_back(document);
      }
    }
    MSA_ASSIGN_OR_RETURN(
        const auto ids,
        engine_.frames().Reader(texts, question.at("question").get<std::string>(),
                                engine_.node().transformer().config().memory.reader_question));
    comparer_.Equal(name + ".reader.prompt_ids", ids,
                    reader.at("prompt_ids").get<std::vector<int32_t>>());
    const MemoryConfig& memory = engine_.node().transformer().config().memory;
    MSA_ASSIGN_OR_RETURN(const auto first, RefusalStart(memory, engine_.node().tokenizer()));
    PlainPrompt prompt{.name = name + ".reader",
                       .ids = ids,
                       .causal = !memory.reader_full_attention,
                       .max_tokens = golden_.input.at("reader_max_new_tokens").get<int32_t>(),
                       .first = first,
                       .expected = reader.at("answer_ids").get<std::vector<int32_t>>()};
    MSA_ASSIGN_OR_RETURN(Reading together,
                         CompareAnswer(golden_, engine_.node(), prompt, comparer_));
    if (!reader.contains("apart")) return absl::OkStatus();
    return Apart(std::move(together), std::move(prompt), question, texts, reader.at("apart"));
  }

  // Over the texts together, as they were read, and over each by itself, with `prompt` but for its
  // ids: how much the model is inclined to refuse, and what it answers over the reading it takes.
  absl::Status Apart(Reading together, PlainPrompt prompt, const json& question,
                     absl::Span<const ReferencedText> texts, const json& apart) {
    Node& node = engine_.node();
    const MemoryConfig& memory = node.transformer().config().memory;
    if (!prompt.first.has_value() || !memory.reader_apart_margin.has_value()) {
      return absl::InvalidArgumentError(
          "the case reads texts apart: its model needs refusal and reader_apart_margin");
    }
    std::vector<Reading> readings = {std::move(together)};
    for (const ReferencedText& text : texts) {
      MSA_ASSIGN_OR_RETURN(prompt.ids,
                           engine_.frames().Reader(absl::MakeConstSpan(&text, 1),
                                                   question.at("question").get<std::string>(),
                                                   memory.reader_question));
      MSA_ASSIGN_OR_RETURN(readings.emplace_back(), ReadPlain(node, prompt));
    }
    std::vector<float> margins;
    for (const Reading& reading : readings) {
      margins.push_back(Margin(reading.first_logits, prompt.first->token));
    }
    const auto expected = apart.at("refusal_margins").get<std::vector<float>>();
    bool near = expected.size() == margins.size();
    for (size_t i = 0; near && i < margins.size(); ++i) {
      near = std::abs(margins[i] - expected[i]) <= kRefusalTolerance;
    }
    comparer_.AddExact(prompt.name + ".apart.refusal_margins", near, near ? "" : "differ");
    const size_t taken = LeastRefused(margins, *memory.reader_apart_margin);
    comparer_.Equal(prompt.name + ".apart.taken", static_cast<int64_t>(taken),
                    apart.at("taken").get<int64_t>());
    comparer_.Equal(prompt.name + ".apart.answer_ids", readings[taken].ids,
                    WithoutStop(golden_, apart.at("answer_ids").get<std::vector<int32_t>>()));
    return absl::OkStatus();
  }

  const GoldenCase& golden_;
  CaseEngine& engine_;
  Comparer comparer_;
  VerifyReport& report_;
};

absl::Status VerifyWithAdapter(const GoldenCase& golden, const VerifyOptions& options,
                               const NodeOptions& node_options, VerifyReport& report) {
  MSA_ASSIGN_OR_RETURN(auto engine, CaseEngine::Make(options, node_options, golden.Documents()));
  AdapterVerifier verifier(golden, *engine, report);
  MSA_RETURN_IF_ERROR(verifier.Blocks());
  for (size_t i = 0; i < golden.input.at("questions").size(); ++i) {
    MSA_RETURN_IF_ERROR(verifier.Question(i));
  }
  return absl::OkStatus();
}

// The base model as a plain chat model, by transformers.
absl::Status VerifyBaseChats(const GoldenCase& golden, const VerifyOptions& options,
                             const NodeOptions& node_options, VerifyReport& report) {
  constexpr int32_t kBaseTokens = 20;
  MSA_ASSIGN_OR_RETURN(auto base, Node::Load(node_options, *options.backend));
  Comparer comparer(*golden.tensors, Tolerances::Adapter(), report);
  const json& chats = golden.input.at("base_chats");
  for (size_t i = 0; i < chats.size(); ++i) {
    const json& expected = golden.expected.at("base_chats").at(i);
    const PlainPrompt prompt{.name = StrCat("base", i),
                             .ids = chats[i].at("prompt_ids").get<std::vector<int32_t>>(),
                             .causal = true,
                             .max_tokens = kBaseTokens,
                             .first = std::nullopt,
                             .expected = expected.at("tokens").get<std::vector<int32_t>>()};
    MSA_RETURN_IF_ERROR(CompareAnswer(golden, *base, prompt, comparer).status());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status VerifyAdapter(const GoldenCase& golden, const VerifyOptions& options,
                           VerifyReport& report) {
  NodeOptions node_options;
  node_options.model_dir = options.base_model_dir;
  if (golden.input.contains("base_chats")) {
    MSA_RETURN_IF_ERROR(VerifyBaseChats(golden, options, node_options, report));
  }
  node_options.adapter_dir = golden.Path("adapter");
  if (std::filesystem::exists(node_options.adapter_dir)) {
    return VerifyWithAdapter(golden, options, node_options, report);
  }
  // Adapters are not always beside their case; the base model alone is still worth comparing.
  report.skipped.push_back(StrCat("routing and reading: the case's adapter ",
                                  node_options.adapter_dir, " is not there"));
  return absl::OkStatus();
}

}  // namespace msa::compute_node

#include "compute_node/verify/verify.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::compute_node {

namespace {

// A tensor that nothing was compared with must not look as if it had passed: a name that is not in
// the format, or a part of the case that is not there.
void NameUnused(const SafetensorsFile& tensors, VerifyReport& report) {
  constexpr size_t kNamed = 3;
  std::vector<std::string> names;
  for (const auto& [name, view] : tensors.tensors()) {
    if (!report.used.contains(name)) names.push_back(name);
  }
  if (names.empty()) return;
  const bool more = names.size() > kNamed;
  const size_t count = names.size();
  names.resize(std::min(count, kNamed));
  report.skipped.push_back(StrCat(count, " tensors of expected.safetensors, which nothing here is ",
                                  "compared with: ", absl::StrJoin(names, ", "),
                                  more ? ", …" : ""));
}

}  // namespace

absl::StatusOr<VerifyReport> RunVerify(const std::string& case_dir, const VerifyOptions& options) {
  // nlohmann throws where a field has another type than the format says; such a case is the
  // caller's fault.
  try {
    MSA_ASSIGN_OR_RETURN(const GoldenCase golden, GoldenCase::Load(case_dir));
    VerifyReport report;
    report.case_dir = case_dir;
    if (golden.input.contains("scenarios")) {
      report.kind = "prompts";
      MSA_RETURN_IF_ERROR(VerifyPrompts(golden, report));
      return report;
    }
    if (golden.tensors == nullptr) {
      return absl::InvalidArgumentError(StrCat(case_dir, " has no expected.safetensors"));
    }
    if (golden.input.contains("adapter")) {
      report.kind = "adapter";
      MSA_RETURN_IF_ERROR(VerifyAdapter(golden, options, report));
    } else if (golden.input.contains("scripts")) {
      report.kind = "rounds";
      MSA_RETURN_IF_ERROR(VerifyRounds(golden, options, report));
    } else if (golden.input.contains("prompt_ids")) {
      report.kind = "numeric";
      MSA_RETURN_IF_ERROR(VerifyNumeric(golden, options, report));
    } else {
      return absl::InvalidArgumentError(
          StrCat(case_dir, "/input.json is of no known kind of case: see tests/golden/README.md"));
    }
    NameUnused(*golden.tensors, report);
    return report;
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        StrCat(case_dir, ": not in the cases' format: ", error.what()));
  }
}

absl::Status VerifyNumeric(const GoldenCase& golden, const VerifyOptions& options,
                           VerifyReport& report) {
  Comparer comparer(*golden.tensors, Tolerances::Numeric(), report);
  const std::vector<ReferencedText> documents = golden.Documents();
  NodeOptions node_options;
  node_options.model_dir = golden.dir;
  node_options.tokenizer_file = golden.Path("tokenizer");
  if (golden.input.contains("model")) node_options.weights_file = golden.Path("model");
  MSA_ASSIGN_OR_RETURN(auto engine, CaseEngine::Make(options, node_options, documents));
  const Transformer& transformer = engine->node().transformer();
  for (size_t i = 0; i < documents.size(); ++i) {
    MSA_ASSIGN_OR_RETURN(const auto ids, engine->frames().Document(documents[i]));
    comparer.Equal(StrCat("documents[", i, "].token_ids"), ids,
                   golden.input["documents"][i].at("token_ids").get<std::vector<int32_t>>());
  }
  MSA_ASSIGN_OR_RETURN(const auto head, engine->frames().TemplateHead());
  comparer.Equal("template_head_ids", head,
                 golden.input.at("template_head_ids").get<std::vector<int32_t>>());
  engine->CompareTemplates(comparer);
  MSA_RETURN_IF_ERROR(
      engine->CompareBlocks(transformer.config().memory.router_layers, documents, comparer));

  Dialogue dialogue(engine->frames(), golden.input.at("question").get<std::string>());
  MSA_ASSIGN_OR_RETURN(const RoutingPrompt prompt, dialogue.Prompt());
  comparer.Equal("prompt_ids", prompt.ids,
                 golden.input.at("prompt_ids").get<std::vector<int32_t>>());
  std::vector<int32_t> mask(prompt.ids.size(), 0);
  for (int32_t row : prompt.routing_rows) mask[row] = 1;
  comparer.Equal("routing_mask", mask, golden.input.at("routing_mask").get<std::vector<int32_t>>());

  MSA_ASSIGN_OR_RETURN(auto session, engine->OpenSession());
  PrefillObserver observer(transformer, prompt);
  const int32_t top_k = transformer.config().memory.top_k;
  MSA_ASSIGN_OR_RETURN(Prefill state, session->Route({}, prompt, top_k, &observer));
  std::vector<int32_t> positions(prompt.ids.size());
  std::iota(positions.begin(), positions.end(),
            state.next_position - static_cast<int32_t>(prompt.ids.size()));
  comparer.Equal("positions", positions, golden.input.at("positions").get<std::vector<int32_t>>());
  engine->CompareRouting("prefill.", comparer);
  for (const auto& [layer, queries] : observer.routing_q()) {
    comparer.Tensor(StrCat("prefill.layers.", layer, ".routing_q"), queries);
  }
  comparer.Tensor("prefill.hidden", observer.hidden());

  // Greedy decoding through the same step batcher that serves sessions.
  const int32_t steps = golden.input.value("decode_steps", 0);
  MSA_ASSIGN_OR_RETURN(std::vector<float> all, transformer.Logits(state.last_hidden));
  comparer.Tensor("prefill.logits", all);
  std::vector<int64_t> tokens = {ArgMax(all)};
  for (int32_t i = 0; i < steps; ++i) {
    MSA_ASSIGN_OR_RETURN(
        const NextToken next,
        engine->node().steps().Feed(state, static_cast<int32_t>(tokens.back()), true));
    all.insert(all.end(), next.logits.begin(), next.logits.end());
    tokens.push_back(next.likeliest);
  }
  comparer.Int64("decode.tokens", tokens);
  comparer.Tensor("decode.logits", all);
  return absl::OkStatus();
}

}  // namespace msa::compute_node

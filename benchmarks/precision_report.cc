// What a bank's precisions and the weights' format do to retrieval and to the model's output, on
// real text, against float32 throughout. Not a benchmark of speed: scripts/measure_precision.py
// runs it.
//   precision_report MODEL ADAPTER CORPUS QUESTIONS NUM_ANSWERS [ROW…]
// A ROW is weights-keys-content, as f32-fp8-fp8: these alone, beside float32; all where none is
// given. Documents are encoded once a weights format; a bank of each precision gets the same pooled
// rows, rounded. Every question then takes one routing round over each bank, through shard and
// router.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "cli/document_reader.h"
#include "cli/metrics.h"
#include "cli/questions.h"
#include "common/block_layout.h"
#include "common/crc32c.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/node.h"
#include "memory_node/shard.h"
#include "nlohmann/json.hpp"
#include "router/router.h"
#include "rpc/shard_map.h"

namespace msa {
namespace {

using cli::Question;
using nlohmann::json;

constexpr int32_t kRanks[] = {1, 5, 16};
constexpr int32_t kMostRanked = 16;
constexpr size_t kDocumentsAtOnce = 8;

// Banks that are compared: "weights/keys/content".
struct Precision {
  kernels::WeightFormat weights;
  DType keys;
  DType content;
  bool answers;  // also generated, not only routed
};
constexpr auto kFloat = kernels::WeightFormat::kFloat32;
constexpr Precision kPrecisions[] = {
    {kFloat, DType::kFloat32, DType::kFloat32, true},  // what the others are compared with
    {kFloat, DType::kBFloat16, DType::kFloat32, false},
    {kFloat, DType::kInt8, DType::kFloat32, false},
    {kFloat, DType::kFloat8, DType::kFloat32, false},
    {kFloat, DType::kFloat32, DType::kBFloat16, false},
    {kFloat, DType::kFloat32, DType::kInt8, false},
    {kFloat, DType::kFloat32, DType::kFloat8, false},
    {kFloat, DType::kBFloat16, DType::kBFloat16, true},
    {kFloat, DType::kInt8, DType::kInt8, true},
    {kFloat, DType::kFloat8, DType::kFloat8, true},
    {kernels::WeightFormat::kBFloat16, DType::kFloat32, DType::kFloat32, true},
    {kernels::WeightFormat::kInt8, DType::kFloat32, DType::kFloat32, true},
    {kernels::WeightFormat::kInt8, DType::kInt8, DType::kInt8, true},
};

std::string WeightsName(kernels::WeightFormat format) {
  if (format == kernels::WeightFormat::kFloat32) return "f32";
  return format == kernels::WeightFormat::kBFloat16 ? "bf16" : "int8";
}

std::string Name(const Precision& p) {
  return StrCat(WeightsName(p.weights), "-", std::string(DTypeName(p.keys)), "-",
                std::string(DTypeName(p.content)));
}

// All, or the exact one and those named.
absl::StatusOr<std::vector<Precision>> Rows(const std::vector<std::string>& names) {
  std::vector<Precision> rows(std::begin(kPrecisions), std::end(kPrecisions));
  if (names.empty()) return rows;
  rows.resize(1);
  for (const std::string& name : names) {
    const auto* row = std::find_if(std::begin(kPrecisions), std::end(kPrecisions),
                                   [&](const Precision& p) { return Name(p) == name; });
    if (row == std::end(kPrecisions)) {
      return absl::InvalidArgumentError(StrCat("no row '", name, "'"));
    }
    if (row != kPrecisions) rows.push_back(*row);
  }
  return rows;
}

// One question over one bank.
struct Outcome {
  std::vector<cli::NamedDocument> ranked;
  std::vector<std::set<int64_t>> selected;  // a router layer each
  std::vector<float> logits;                // after the prompt
  std::string answer;
};

class Report {
 public:
  // `rows`: the exact one first.
  Report(const kernels::Backend& backend, std::string model, std::string adapter,
         std::vector<Precision> rows)
      : backend_(backend),
        model_(std::move(model)),
        adapter_(std::move(adapter)),
        rows_(std::move(rows)) {}

  absl::Status Run(const std::string& corpus, const std::string& questions, int num_answers) {
    MSA_RETURN_IF_ERROR(ReadCorpus(corpus));
    MSA_ASSIGN_OR_RETURN(questions_, cli::ReadQuestions(questions, 0));
    num_answers_ = num_answers;
    MSA_ASSIGN_OR_RETURN(
        shard_, memory_node::LocalShard::Open(memory_node::MakeMemoryStore(), &backend_, {}));
    const rpc::ShardMap map = rpc::ShardMap::Embedded();
    router_ = std::make_unique<router::Router>(map, std::vector<rpc::MemoryShard*>{shard_.get()},
                                               std::vector<rpc::ComputeNode*>{});
    for (const auto weights :
         {kFloat, kernels::WeightFormat::kBFloat16, kernels::WeightFormat::kInt8}) {
      MSA_RETURN_IF_ERROR(MeasureWeights(weights));
    }
    return absl::OkStatus();
  }

  json Result() const {
    json rows = json::array();
    for (const Precision& precision : rows_) rows.push_back(Row(precision));
    return {{"documents", documents_.size()}, {"tokens", tokens_},
            {"questions", questions_.size()}, {"answered", Answered()},
            {"reference", Name(rows_[0])},    {"rows", rows}};
  }

 private:
  size_t Answered() const {
    return std::min<size_t>(questions_.size(), static_cast<size_t>(num_answers_));
  }

  absl::Status ReadCorpus(const std::string& path) {
    MSA_ASSIGN_OR_RETURN(auto reader, cli::DocumentReader::Open({path}, std::cin));
    while (std::optional<cli::ReadDocument> read = reader.Next()) {
      MSA_RETURN_IF_ERROR(read->status);
      documents_.push_back(std::move(read->document));
    }
    return absl::OkStatus();
  }

  // Encodes the corpus with these weights and asks everything of the banks that use them.
  absl::Status MeasureWeights(kernels::WeightFormat weights) {
    const auto of_weights = [weights](const Precision& row) { return row.weights == weights; };
    if (std::none_of(rows_.begin(), rows_.end(), of_weights)) return absl::OkStatus();
    compute_node::NodeOptions options;
    options.model_dir = model_;
    options.adapter_dir = adapter_;
    options.weights = weights;
    MSA_ASSIGN_OR_RETURN(const auto node, compute_node::Node::Load(options, backend_));
    node->Attach(router_.get(), {shard_.get()});
    std::vector<rpc::BankSpec> banks;
    for (const Precision& precision : rows_) {
      if (precision.weights != weights) continue;
      MSA_ASSIGN_OR_RETURN(banks.emplace_back(), MakeBank(precision, *node));
    }
    MSA_RETURN_IF_ERROR(AddDocuments(*node, banks));
    for (const Precision& precision : rows_) {
      if (precision.weights == weights) MSA_RETURN_IF_ERROR(AskAll(*node, precision));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<rpc::BankSpec> MakeBank(const Precision& precision, compute_node::Node& node) {
    MSA_ASSIGN_OR_RETURN(const rpc::ModelInfo info, node.Info({}));
    rpc::BankSpec bank = info.default_bank;
    bank.name = Name(precision);
    bank.uid = ++last_uid_;
    bank.routing_dtype = precision.keys;
    bank.content_dtype = precision.content;
    MSA_RETURN_IF_ERROR(shard_->CreateBank({}, bank));
    return bank;
  }

  absl::Status AddDocuments(compute_node::Node& node, const std::vector<rpc::BankSpec>& banks) {
    rpc::BankSpec exact = banks.front();
    exact.routing_dtype = exact.content_dtype = DType::kFloat32;
    int64_t next_reference = 0;
    for (size_t i = 0; i < documents_.size(); i += kDocumentsAtOnce) {
      const size_t end = std::min(documents_.size(), i + kDocumentsAtOnce);
      std::vector<compute_node::ReferencedText> texts;
      std::vector<rpc::EncodedDocument> encoded(end - i);
      for (size_t d = i; d < end; ++d) {
        MSA_RETURN_IF_ERROR(
            Split(node, exact, documents_[d], next_reference, texts, encoded[d - i]));
      }
      MSA_ASSIGN_OR_RETURN(auto parts, node.encoder().Encode({}, exact, texts));
      size_t at = 0;
      for (rpc::EncodedDocument& document : encoded) {
        for (rpc::EncodedPart& part : document.parts) {
          const rpc::ByteSpan span = part.span;
          part = std::move(parts[at++]);
          part.span = span;
          if (exact.name == Name(kPrecisions[0])) tokens_ += part.num_tokens;
        }
        for (const rpc::BankSpec& bank : banks) MSA_RETURN_IF_ERROR(Put(bank, document));
      }
      if (i % 256 == 0) std::cerr << exact.name << ": " << end << " documents\n";
    }
    return absl::OkStatus();
  }

  absl::Status Split(compute_node::Node& node, const rpc::BankSpec& bank,
                     const rpc::NewDocument& document, int64_t& next_reference,
                     std::vector<compute_node::ReferencedText>& texts,
                     rpc::EncodedDocument& encoded) {
    const std::string text = document.FullText();
    MSA_ASSIGN_OR_RETURN(const auto spans, node.SplitDocument({}, text, bank.part_tokens));
    encoded.document = document;
    encoded.model_fingerprint = bank.model_fingerprint;
    for (const rpc::ByteSpan& span : spans) {
      encoded.parts.emplace_back().span = span;
      texts.push_back({next_reference++, text.substr(span.begin, span.end - span.begin)});
    }
    return absl::OkStatus();
  }

  // Rounds what was encoded in float32 to the bank's precisions, as BlockBuilder would have.
  absl::Status Put(const rpc::BankSpec& bank, const rpc::EncodedDocument& exact) {
    rpc::EncodedDocument rounded = exact;
    rounded.bank = bank.name;
    rounded.bank_uid = bank.uid;
    for (rpc::EncodedPart& part : rounded.parts) {
      for (rpc::EncodedLayer& layer : part.layers) {
        layer.routing = rpc::Payload(RoundRouting(bank, part.routing_chunks, layer.routing.view()));
        layer.content = rpc::Payload(RoundContent(bank, part.content_chunks, layer.content.view()));
        layer.routing_crc32c = Crc32c(layer.routing.view());
        layer.content_crc32c = Crc32c(layer.content.view());
      }
    }
    return shard_->PutDocument({}, rounded).status();
  }

  void Round(std::string_view exact, size_t from, int64_t rows, int64_t width, DType dtype,
             std::string& block, size_t to, size_t scales) const {
    std::vector<float> values(rows * width);
    std::memcpy(values.data(), exact.data() + from, values.size() * sizeof(float));
    backend_.Quantize(values.data(), rows, width, dtype, block.data() + to,
                      reinterpret_cast<float*>(block.data() + scales));
  }

  std::string RoundRouting(const rpc::BankSpec& bank, int64_t chunks,
                           std::string_view exact) const {
    const int64_t width = bank.routing.key_width();
    const RoutingBlockLayout layout(bank.routing_dtype, chunks, width);
    std::string block(layout.size, '\0');
    Round(exact, 0, chunks, width, bank.routing_dtype, block, 0, layout.scales_offset);
    return block;
  }

  std::string RoundContent(const rpc::BankSpec& bank, int64_t chunks,
                           std::string_view exact) const {
    const int heads = bank.routing.num_kv_heads, width = bank.routing.head_dim;
    const ContentBlockLayout from(DType::kFloat32, chunks, heads, width);
    const ContentBlockLayout layout(bank.content_dtype, chunks, heads, width);
    std::string block(layout.size, '\0');
    Round(exact, 0, chunks * heads, width, bank.content_dtype, block, 0, layout.k_scales_offset);
    Round(exact, from.v_offset, chunks * heads, width, bank.content_dtype, block, layout.v_offset,
          layout.v_scales_offset);
    return block;
  }

  absl::Status AskAll(compute_node::Node& node, const Precision& precision) {
    std::vector<Outcome>& outcomes = outcomes_[Name(precision)];
    for (size_t i = 0; i < questions_.size(); ++i) {
      MSA_ASSIGN_OR_RETURN(outcomes.emplace_back(),
                           RouteOne(node, Name(precision), questions_[i].text));
      if (!precision.answers || i >= Answered()) continue;
      MSA_ASSIGN_OR_RETURN(outcomes.back().answer,
                           Answer(node, Name(precision), questions_[i].text));
    }
    std::cerr << Name(precision) << ": asked\n";
    return absl::OkStatus();
  }

  absl::StatusOr<Outcome> RouteOne(compute_node::Node& node, const std::string& bank,
                                   const std::string& question) {
    MSA_ASSIGN_OR_RETURN(auto session,
                         compute_node::MemorySession::Open({}, node.transformer(), node.prefix(),
                                                           node.memory(), bank, {}));
    const compute_node::Frames frames(node.tokenizer(), session->bank().parse_special_tokens);
    const compute_node::Dialogue dialogue(frames, question);
    MSA_ASSIGN_OR_RETURN(const auto prompt, dialogue.Prompt());
    const int32_t top_k = node.transformer().config().memory.top_k;
    MSA_ASSIGN_OR_RETURN(const auto prefill, session->Route({}, prompt, top_k, nullptr));
    Outcome outcome;
    for (const rpc::LayerSelection& layer : prefill.selections) {
      std::set<int64_t>& chosen = outcome.selected.emplace_back();
      for (const ScoredPart& part : layer.parts) chosen.insert(part.reference);
    }
    MSA_ASSIGN_OR_RETURN(outcome.logits, node.transformer().Logits(prefill.last_hidden));
    MSA_ASSIGN_OR_RETURN(const auto ranked, session->Rank({}, kMostRanked, {}, true));
    for (const rpc::RankedPart& part : ranked) {
      MSA_ASSIGN_OR_RETURN(const auto found, session->GetParts({}, {part.scored.reference}));
      for (const rpc::PartText& text : found) {
        outcome.ranked.push_back({text.document_id, text.title});
      }
    }
    return outcome;
  }

  absl::StatusOr<std::string> Answer(compute_node::Node& node, const std::string& bank,
                                     const std::string& question) {
    rpc::GenerateRequest request;
    request.bank = bank;
    request.question = question;
    request.max_new_tokens = 32;
    std::string answer;
    MSA_RETURN_IF_ERROR(node.Generate({}, request, [&](const rpc::GenerateEvent& event) {
      if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) answer = done->answer;
      return true;
    }));
    return answer;
  }

  json Row(const Precision& precision) const {
    const std::vector<Outcome>& exact = outcomes_.at(Name(kPrecisions[0]));
    const std::vector<Outcome>& outcomes = outcomes_.at(Name(precision));
    const auto count = static_cast<double>(questions_.size());
    json row = {{"weights", WeightsName(precision.weights)},
                {"keys", std::string(DTypeName(precision.keys))},
                {"content", std::string(DTypeName(precision.content))}};
    for (const int32_t k : kRanks) {
      double recall = 0;
      for (size_t i = 0; i < outcomes.size(); ++i) {
        recall += cli::RecallAt(k, outcomes[i].ranked, questions_[i].gold);
      }
      row["recall"][std::to_string(k)] = recall / count;
    }
    double same_set = 0, overlap = 0, same_layers = 0, layers = 0, same_token = 0;
    double squares = 0, largest = 0, logits = 0;
    for (size_t i = 0; i < outcomes.size(); ++i) {
      const size_t shared = Shared(Ids(outcomes[i]), Ids(exact[i]));
      same_set += shared == exact[i].ranked.size();
      overlap += static_cast<double>(shared) / std::max<size_t>(1, exact[i].ranked.size());
      for (size_t l = 0; l < exact[i].selected.size(); ++l) {
        same_layers += outcomes[i].selected[l] == exact[i].selected[l];
        ++layers;
      }
      same_token += ArgMax(outcomes[i].logits) == ArgMax(exact[i].logits);
      for (size_t v = 0; v < exact[i].logits.size(); ++v) {
        const double error = outcomes[i].logits[v] - exact[i].logits[v];
        squares += error * error;
        largest = std::max(largest, std::abs(error));
        ++logits;
      }
    }
    row["same_top16"] = same_set / count;
    row["shared_of_top16"] = overlap / count;
    row["same_selection_a_layer"] = same_layers / layers;
    row["logit_rms"] = std::sqrt(squares / logits);
    row["logit_max"] = largest;
    row["same_next_token"] = same_token / count;
    if (precision.answers && Answered() > 0) row["answers"] = Answers(outcomes, exact);
    return row;
  }

  json Answers(const std::vector<Outcome>& outcomes, const std::vector<Outcome>& exact) const {
    double same = 0, match = 0, f1 = 0;
    for (size_t i = 0; i < Answered(); ++i) {
      same += outcomes[i].answer == exact[i].answer;
      match += cli::ExactMatch(outcomes[i].answer, questions_[i].answers);
      f1 += cli::F1(outcomes[i].answer, questions_[i].answers);
    }
    const auto count = static_cast<double>(Answered());
    return {{"same", same / count}, {"exact_match", match / count}, {"f1", f1 / count}};
  }

  static std::set<std::string> Ids(const Outcome& outcome) {
    std::set<std::string> ids;
    for (const cli::NamedDocument& document : outcome.ranked) ids.insert(document.id);
    return ids;
  }
  static size_t Shared(const std::set<std::string>& a, const std::set<std::string>& b) {
    return std::count_if(a.begin(), a.end(), [&](const auto& id) { return b.contains(id); });
  }
  static ptrdiff_t ArgMax(const std::vector<float>& values) {
    return std::max_element(values.begin(), values.end()) - values.begin();
  }

  const kernels::Backend& backend_;
  const std::string model_;
  const std::string adapter_;
  const std::vector<Precision> rows_;
  int num_answers_ = 0;
  int64_t tokens_ = 0;
  uint64_t last_uid_ = 0;
  std::vector<rpc::NewDocument> documents_;
  std::vector<Question> questions_;
  std::unique_ptr<memory_node::LocalShard> shard_;
  std::unique_ptr<router::Router> router_;
  std::map<std::string, std::vector<Outcome>> outcomes_;
};

}  // namespace
}  // namespace msa

int main(int argc, char** argv) {
  if (argc < 6) {
    std::cerr << "usage: precision_report MODEL ADAPTER CORPUS QUESTIONS NUM_ANSWERS [ROW…]\n";
    return 2;
  }
  const auto rows = msa::Rows({argv + 6, argv + argc});
  if (!rows.ok()) {
    std::cerr << rows.status() << "\n";
    return 2;
  }
  const auto backend = msa::kernels::MakeBackend("cpu", 0);
  msa::Report report(**backend, argv[1], argv[2], *rows);
  const absl::Status status = report.Run(argv[3], argv[4], std::atoi(argv[5]));
  if (!status.ok()) {
    std::cerr << status << "\n";
    return 1;
  }
  std::cout << report.Result().dump() << std::endl;
  return 0;
}

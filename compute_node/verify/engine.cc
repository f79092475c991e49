#include "compute_node/verify/engine.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "common/block_layout.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::compute_node {
namespace {

using nlohmann::json;

constexpr size_t kMaxCaseBytes = 256u << 20;
constexpr char kBank[] = "verify";

absl::StatusOr<json> LoadJson(const std::string& path) {
  MSA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxCaseBytes));
  json root = json::parse(text, nullptr, false);
  if (!root.is_object()) return absl::InvalidArgumentError(StrCat(path, " is not a JSON object"));
  return root;
}

}  // namespace

absl::StatusOr<GoldenCase> GoldenCase::Load(const std::string& dir) {
  GoldenCase golden;
  golden.dir = dir;
  MSA_ASSIGN_OR_RETURN(golden.input, LoadJson(dir + "/input.json"));
  MSA_ASSIGN_OR_RETURN(golden.expected, LoadJson(dir + "/expected.json"));
  const std::string tensors = dir + "/expected.safetensors";
  if (std::filesystem::exists(tensors)) {
    MSA_ASSIGN_OR_RETURN(golden.tensors, SafetensorsFile::Open(tensors));
  }
  return golden;
}

std::string GoldenCase::Path(const std::string& field) const {
  return dir + "/" + input.value(field, "");
}

std::vector<ReferencedText> GoldenCase::Documents() const {
  std::vector<ReferencedText> documents;
  if (!input.contains("documents")) return documents;
  for (const json& document : input["documents"]) {
    documents.push_back({document.at("id").get<int64_t>(), document.value("text", "")});
  }
  return documents;
}

absl::StatusOr<rpc::SessionInfo> TracingRouter::OpenSession(const rpc::CallContext& ctx,
                                                            const std::string& bank,
                                                            const rpc::SessionOptions& options) {
  MSA_ASSIGN_OR_RETURN(rpc::SessionInfo info, inner_.OpenSession(ctx, bank, options));
  num_parts_ = info.num_parts;
  return info;
}

absl::Status TracingRouter::CloseSession(const rpc::CallContext& ctx, uint64_t session_id) {
  return inner_.CloseSession(ctx, session_id);
}

absl::StatusOr<rpc::Selection> TracingRouter::Route(const rpc::CallContext& ctx,
                                                    uint64_t session_id, int32_t round,
                                                    int32_t layer, int32_t top_k,
                                                    std::vector<float> queries) {
  Trace& trace = traces_[layer];
  trace.queries = queries;
  const auto everything = static_cast<int32_t>(std::min<int64_t>(num_parts_, kMaxTopK));
  MSA_ASSIGN_OR_RETURN(const rpc::Selection all,
                       inner_.Route(ctx, session_id, round, layer, everything, queries));
  trace.all_scores.assign(num_parts_, kNoScore);
  for (const rpc::RoutedPart& part : all.parts) {
    if (part.scored.reference < num_parts_) {
      trace.all_scores[part.scored.reference] = part.scored.score;
    }
  }
  MSA_ASSIGN_OR_RETURN(rpc::Selection selection,
                       inner_.Route(ctx, session_id, round, layer, top_k, queries));
  trace.selected.clear();
  for (const rpc::RoutedPart& part : selection.parts) trace.selected.push_back(part.scored);
  return selection;
}

absl::StatusOr<std::vector<rpc::RankedPart>> TracingRouter::Rank(const rpc::CallContext& ctx,
                                                                 uint64_t session_id,
                                                                 const rpc::RankRequest& request) {
  return inner_.Rank(ctx, session_id, request);
}

absl::StatusOr<std::vector<rpc::PartText>> TracingRouter::GetParts(
    const rpc::CallContext& ctx, uint64_t session_id, const std::vector<int64_t>& references) {
  return inner_.GetParts(ctx, session_id, references);
}

absl::StatusOr<std::unique_ptr<CaseEngine>> CaseEngine::Make(
    const VerifyOptions& options, const NodeOptions& node_options,
    const std::vector<ReferencedText>& documents) {
  std::unique_ptr<CaseEngine> engine(new CaseEngine());
  if (documents.empty()) return absl::InvalidArgumentError("the case has no documents");
  MSA_ASSIGN_OR_RETURN(engine->node_, Node::Load(node_options, *options.backend));
  MSA_ASSIGN_OR_RETURN(engine->memory_, options.make_memory(*engine->node_));
  engine->router_ = std::make_unique<TracingRouter>(engine->memory_->router());
  engine->node_->Attach(engine->router_.get(), engine->memory_->shards());
  MSA_RETURN_IF_ERROR(engine->AddDocuments(documents));
  return engine;
}

absl::Status CaseEngine::AddDocuments(const std::vector<ReferencedText>& documents) {
  rpc::BankOptions bank;
  bank.routing_dtype = DType::kFloat32;
  bank.content_dtype = DType::kFloat32;
  bank.part_tokens = kMaxPartTokens;
  bank.parse_special_tokens = true;
  MSA_RETURN_IF_ERROR(memory_->service().CreateBank({}, kBank, bank).status());
  size_t next = 0;
  absl::Status refused;
  const auto source = [&]() -> std::optional<rpc::NewDocument> {
    if (next == documents.size()) return std::nullopt;
    rpc::NewDocument document;
    // Zero-padded, so that any order by id is the order of the case too.
    const std::string number = StrCat(next);
    document.id = StrCat("case-", std::string(8 - std::min<size_t>(8, number.size()), '0'), number);
    document.text = documents[next++].text;
    return document;
  };
  const auto done = [&](const rpc::AddResult& result) {
    if (!result.status.ok() && refused.ok()) refused = result.status;
    return true;
  };
  MSA_RETURN_IF_ERROR(memory_->service().AddDocuments({}, kBank, source, done));
  return refused;
}

absl::StatusOr<std::unique_ptr<MemorySession>> CaseEngine::OpenSession() {
  return MemorySession::Open({}, node_->transformer(), node_->prefix(), node_->memory(), kBank, {});
}

absl::Status CaseEngine::CompareBlocks(absl::Span<const int32_t> layers,
                                       const std::vector<ReferencedText>& documents,
                                       Comparer& comparer) {
  MSA_ASSIGN_OR_RETURN(auto session, OpenSession());
  const rpc::BankSpec& bank = session->bank();
  for (int32_t layer : layers) {
    if (!std::binary_search(bank.router_layers.begin(), bank.router_layers.end(), layer)) {
      return absl::InvalidArgumentError(StrCat("the case compares blocks of layer ", layer,
                                               ", which is no router layer of its model"));
    }
  }
  std::vector<int64_t> references;
  for (const ReferencedText& document : documents) references.push_back(document.reference);
  MSA_ASSIGN_OR_RETURN(const auto encoded, node_->encoder().Encode({}, bank, documents));
  for (int32_t layer : layers) {
    std::vector<float> k, v, keys;
    rpc::FetchRequest request{bank.name, session->info().shard_snapshots[0], references, {layer}};
    std::map<int64_t, std::shared_ptr<const ContentBlock>> blocks;
    for (size_t shard = 0; shard < node_->memory().shards.size(); ++shard) {
      request.snapshot_id = session->info().shard_snapshots[shard];
      MSA_RETURN_IF_ERROR(node_->memory().shards[shard]->FetchBlocks(
          {}, request, [&](rpc::FetchedBlock fetched) -> absl::Status {
            MSA_ASSIGN_OR_RETURN(blocks[fetched.reference],
                                 ParseContentBlock(bank, fetched.reference, layer, fetched.record));
            return absl::OkStatus();
          }));
    }
    for (int64_t reference : references) {
      if (!blocks.contains(reference)) continue;
      const kernels::KvView& view = blocks[reference]->view;
      const int64_t n = view.num_tokens * bank.routing.key_width();
      k.insert(k.end(), static_cast<const float*>(view.k), static_cast<const float*>(view.k) + n);
      v.insert(v.end(), static_cast<const float*>(view.v), static_cast<const float*>(view.v) + n);
    }
    const auto index =
        std::lower_bound(bank.router_layers.begin(), bank.router_layers.end(), layer) -
        bank.router_layers.begin();
    for (const rpc::EncodedPart& part : encoded) {
      const std::string_view bytes = part.layers[index].routing.view();
      const size_t n = part.routing_chunks * bank.routing.key_width();
      keys.resize(keys.size() + n);
      std::memcpy(keys.data() + keys.size() - n, bytes.data(), n * sizeof(float));
    }
    const std::string prefix = StrCat("layers.", layer, ".");
    comparer.Tensor(prefix + "pooled_k", k);
    comparer.Tensor(prefix + "pooled_v", v);
    comparer.Tensor(prefix + "routing_keys", keys);
  }
  return absl::OkStatus();
}

void CaseEngine::CompareTemplates(Comparer& comparer) {
  for (int layer = 0; layer < node_->transformer().config().num_layers; ++layer) {
    const kernels::KvView view = node_->prefix().View(layer);
    const size_t n = view.num_tokens * node_->transformer().kv_width();
    const std::string prefix = StrCat("layers.", layer, ".template_");
    std::vector<float> rows(n);
    node_->transformer().backend().Copy(rows.data(), view.k, n * sizeof(float));
    comparer.Tensor(prefix + "k", rows);
    node_->transformer().backend().Copy(rows.data(), view.v, n * sizeof(float));
    comparer.Tensor(prefix + "v", rows);
  }
}

void CaseEngine::CompareRouting(const std::string& prefix, Comparer& comparer) {
  for (const auto& [layer, trace] : router_->traces()) {
    const std::string name = StrCat(prefix, "layers.", layer, ".");
    // The published engine does not fold; where heads are not averaged there is nothing to fold
    // either.
    if (node_->transformer().config().Routing().folded()) {
      comparer.Tensor(name + "folded_q", trace.queries);
    }
    // Of more documents the router gives no score of each.
    if (trace.all_scores.size() <= kMaxTopK) {
      comparer.Tensor(name + "doc_scores", trace.all_scores);
    }
    std::vector<int64_t> selected;
    std::vector<float> scores;
    for (const ScoredPart& part : trace.selected) {
      selected.push_back(part.reference);
      scores.push_back(part.score);
    }
    comparer.Int64(name + "selected", selected);
    comparer.Tensor(name + "selected_scores", scores);
  }
}

absl::Status PrefillObserver::OnAttentionInputs(int layer, const AttentionInputs& inputs) {
  const ModelConfig& config = transformer_.config();
  const auto& routed = config.memory.router_layers;
  if (!std::binary_search(routed.begin(), routed.end(), layer)) return absl::OkStatus();
  MSA_ASSIGN_OR_RETURN(const kernels::Buffer projected,
                       transformer_.RouterQueries(layer, inputs, prompt_.routing_rows));
  const auto tokens = static_cast<int64_t>(prompt_.routing_rows.size());
  if (config.memory.cosine) {
    transformer_.backend().L2Normalize(projected.as<float>(), tokens * config.num_q_heads,
                                       config.head_dim);
  }
  std::vector<float>& queries = routing_q_[layer];
  queries.resize(tokens * transformer_.q_width());
  transformer_.backend().Copy(queries.data(), projected.data(), queries.size() * sizeof(float));
  return absl::OkStatus();
}

void PrefillObserver::OnLayerOutput(int, const float* hidden) {
  const size_t n = prompt_.ids.size() * transformer_.config().hidden_size;
  hidden_.resize(hidden_.size() + n);
  transformer_.backend().Copy(hidden_.data() + hidden_.size() - n, hidden, n * sizeof(float));
}

std::vector<float> PrefillObserver::LastHidden() const {
  const size_t width = transformer_.config().hidden_size;
  const size_t layer_size = prompt_.ids.size() * width;
  std::vector<float> last;
  for (size_t end = layer_size; end <= hidden_.size(); end += layer_size) {
    last.insert(last.end(), hidden_.begin() + end - width, hidden_.begin() + end);
  }
  return last;
}

}  // namespace msa::compute_node

// A golden case's documents behind the whole service (encode, store, route, gather), and what can
// be observed of it.
#ifndef MSA_COMPUTE_NODE_VERIFY_ENGINE_H_
#define MSA_COMPUTE_NODE_VERIFY_ENGINE_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "compute_node/node.h"
#include "compute_node/verify/report.h"
#include "nlohmann/json.hpp"
#include "rpc/memory_service.h"

namespace msa::compute_node {

// Memory for one case: shards and a router over them, empty at first. Whoever may include them all
// makes it.
class VerifyMemory {
 public:
  virtual ~VerifyMemory() = default;
  virtual rpc::MemoryService& service() = 0;
  virtual rpc::SessionRouter& router() = 0;
  virtual std::vector<rpc::MemoryShard*> shards() = 0;
};

struct VerifyOptions {
  const kernels::Backend* backend = nullptr;
  std::function<absl::StatusOr<std::unique_ptr<VerifyMemory>>(rpc::ComputeNode&)> make_memory;
  // Hugging Face files of the model that "adapter" cases build on.
  std::string base_model_dir;
};

// input.json, expected.json and expected.safetensors of a folder; the latter is null for cases of
// texts only.
struct GoldenCase {
  std::string dir;
  nlohmann::json input;
  nlohmann::json expected;
  std::unique_ptr<SafetensorsFile> tensors;

  static absl::StatusOr<GoldenCase> Load(const std::string& dir);
  // A path of input.json, which is relative to the folder.
  std::string Path(const std::string& field) const;
  std::vector<ReferencedText> Documents() const;
};

// Sees every Route of a session: its queries, and the scores of every part, not only the best.
class TracingRouter : public rpc::SessionRouter {
 public:
  explicit TracingRouter(rpc::SessionRouter& inner) : inner_(inner) {}

  struct Trace {
    std::vector<float> queries;     // [routing tokens, query_width]
    std::vector<float> all_scores;  // by reference number; kNoScore where there is none
    std::vector<ScoredPart> selected;
  };
  // The last round's, by layer.
  const std::map<int32_t, Trace>& traces() const { return traces_; }

  absl::StatusOr<rpc::SessionInfo> OpenSession(const rpc::CallContext& ctx, const std::string& bank,
                                               const rpc::SessionOptions& options) override;
  absl::Status CloseSession(const rpc::CallContext& ctx, uint64_t session_id) override;
  absl::StatusOr<rpc::Selection> Route(const rpc::CallContext& ctx, uint64_t session_id,
                                       int32_t round, int32_t layer, int32_t top_k,
                                       std::vector<float> queries) override;
  absl::StatusOr<std::vector<rpc::RankedPart>> Rank(const rpc::CallContext& ctx,
                                                    uint64_t session_id,
                                                    const rpc::RankRequest& request) override;
  absl::StatusOr<std::vector<rpc::PartText>> GetParts(
      const rpc::CallContext& ctx, uint64_t session_id,
      const std::vector<int64_t>& references) override;

 private:
  rpc::SessionRouter& inner_;
  int64_t num_parts_ = 0;
  std::map<int32_t, Trace> traces_;
};

class CaseEngine {
 public:
  // Loads the model and adds the documents, reference numbers 0, 1, … in order, in float32.
  static absl::StatusOr<std::unique_ptr<CaseEngine>> Make(
      const VerifyOptions& options, const NodeOptions& node_options,
      const std::vector<ReferencedText>& documents);

  Node& node() { return *node_; }
  const TracingRouter& router() const { return *router_; }
  absl::StatusOr<std::unique_ptr<MemorySession>> OpenSession();
  Frames frames() const { return Frames(node_->tokenizer(), /*parse_special_tokens=*/true); }

  // layers.{l}.pooled_k, pooled_v as stored, routing_keys as encoded, of the documents named, in
  // that order.
  absl::Status CompareBlocks(absl::Span<const int32_t> layers,
                             const std::vector<ReferencedText>& documents, Comparer& comparer);
  void CompareTemplates(Comparer& comparer);
  // {prefix}layers.{l}.folded_q, doc_scores, selected, selected_scores of the last round.
  void CompareRouting(const std::string& prefix, Comparer& comparer);

 private:
  CaseEngine() = default;
  absl::Status AddDocuments(const std::vector<ReferencedText>& documents);

  std::unique_ptr<Node> node_;
  std::unique_ptr<VerifyMemory> memory_;
  std::unique_ptr<TracingRouter> router_;
};

// Collects hidden states and unfolded routing queries of a prefill.
class PrefillObserver : public ForwardHook {
 public:
  PrefillObserver(const Transformer& transformer, const RoutingPrompt& prompt)
      : transformer_(transformer), prompt_(prompt) {}
  absl::Status OnAttentionInputs(int layer, const AttentionInputs& inputs) override;
  bool WatchesLayerOutputs() const override { return true; }
  void OnLayerOutput(int layer, const float* hidden) override;

  const std::vector<float>& hidden() const { return hidden_; }  // [layers, tokens, hidden]
  std::vector<float> LastHidden() const;                        // [layers, hidden]
  const std::map<int32_t, std::vector<float>>& routing_q() const { return routing_q_; }

 private:
  const Transformer& transformer_;
  const RoutingPrompt& prompt_;
  std::vector<float> hidden_;
  std::map<int32_t, std::vector<float>> routing_q_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_VERIFY_ENGINE_H_

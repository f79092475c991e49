// A compute node without a model, for tests of what calls it: keys are made from the text's bytes,
// an answer tells which documents routing found.
#ifndef MSA_TESTS_SUPPORT_FAKE_COMPUTE_NODE_H_
#define MSA_TESTS_SUPPORT_FAKE_COMPUTE_NODE_H_

#include <functional>
#include <string>
#include <vector>

#include "rpc/compute_node.h"
#include "rpc/memory_shard.h"
#include "rpc/session_router.h"

namespace msa::testing {

class FakeComputeNode : public rpc::ComputeNode {
 public:
  // Borrowed: where blocks go (by index in the shard map), and whom Generate asks. `router` may be
  // set later.
  explicit FakeComputeNode(std::vector<rpc::MemoryShard*> shards,
                           rpc::SessionRouter* router = nullptr);

  // As FakeShard::before.
  std::function<absl::Status(const std::string& method, const rpc::CallContext& context)> before;
  rpc::SessionRouter* router;
  rpc::ModelInfo model;
  // Called between Generate's routing and done events.
  std::function<absl::Status(const rpc::CallContext& context)> midway;

  // What a question's or a part's text becomes: [1, width] floats in -1 … 1.
  std::vector<float> Embed(const std::string& text, int32_t layer) const;

  absl::StatusOr<rpc::ModelInfo> Info(const rpc::CallContext& ctx) override;
  // Parts of part_tokens bytes.
  absl::StatusOr<std::vector<rpc::ByteSpan>> SplitDocument(const rpc::CallContext& ctx,
                                                           const std::string& full_text,
                                                           int32_t part_tokens) override;
  absl::StatusOr<rpc::PutResult> EncodeDocument(const rpc::CallContext& ctx,
                                                const rpc::EncodeRequest& request) override;
  absl::Status Generate(const rpc::CallContext& ctx, const rpc::GenerateRequest& request,
                        const rpc::EventSink& sink) override;
  absl::StatusOr<rpc::RetrieveReply> Retrieve(const rpc::CallContext& ctx,
                                              const rpc::RetrieveRequest& request) override;

 private:
  absl::StatusOr<rpc::RoutingEvent> RouteAll(const rpc::CallContext& ctx, const std::string& bank,
                                             const std::string& question, int32_t top_k,
                                             const rpc::SessionOptions& options,
                                             std::vector<rpc::ScanComparison>* comparisons);
  const std::vector<rpc::MemoryShard*> shards_;
};

// Two router layers (3 and 5), width 8, float32, parts of 64 bytes.
rpc::BankSpec TestBankSpec();

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_FAKE_COMPUTE_NODE_H_

// The blocks of the documents of one encoding pass: pooled layer by layer where the backend
// computes, brought over in one go, then cut into a block a document and layer.
#ifndef MSA_COMPUTE_NODE_ENCODED_PASS_H_
#define MSA_COMPUTE_NODE_ENCODED_PASS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/backend.h"
#include "rpc/types.h"

namespace msa::compute_node {

// What a bank wants of a pass; documents of banks that want the same share one.
struct PoolingSpec {
  RoutingShape routing;
  int64_t routing_chunk_tokens = 0;
  int64_t content_chunk_tokens = 0;
  DType routing_dtype = DType::kFloat32;
  DType content_dtype = DType::kFloat32;

  static PoolingSpec Of(const rpc::BankSpec& bank);
  bool operator==(const PoolingSpec& other) const;
};

// Thread-compatible: written by the pass, then only waited for and read.
class EncodedPass {
 public:
  // `part_tokens`: rows of each document, which lie one behind another. `cosine`: keys are
  // normalised. RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::shared_ptr<EncodedPass>> Make(const kernels::Backend& backend,
                                                           const PoolingSpec& spec, bool cosine,
                                                           absl::Span<const int64_t> part_tokens,
                                                           int num_layers);

  // Where the documents' routing chunks begin, and where the last one ends (PoolPackedArgs).
  absl::Span<const int32_t> routing_chunks() const { return routing_.chunk_begin; }
  // The next layer: rows of num_kv_heads · head_dim, router_keys a mean a routing chunk, k and v a
  // row a token. Does not wait.
  void AddLayer(const float* router_keys, const float* k, const float* v);
  // To the processor's memory, after all layers. The bytes are there once Wait returns, which any
  // thread may call.
  absl::Status StartFetch();
  void Wait() const {
    if (fetched_mark_ != nullptr) fetched_mark_->Wait();
  }

  int num_layers() const { return num_layers_; }
  // The block of a document and layer, as common/block_layout.h has it. After Wait.
  std::string Routing(int layer, size_t part) const;
  std::string Content(int layer, size_t part) const;

 private:
  // Where pooled rows of all documents lie within a layer.
  struct Pooled {
    std::vector<int32_t> chunk_begin;  // [chunks + 1] rows
    std::vector<int64_t> part_begin;   // [parts + 1] chunks
    int64_t chunks() const { return part_begin.back(); }
  };

  EncodedPass(const kernels::Backend& backend, const PoolingSpec& spec, bool cosine, int num_layers)
      : backend_(backend), spec_(spec), cosine_(cosine), num_layers_(num_layers) {}
  static Pooled Cut(absl::Span<const int64_t> part_tokens, int64_t chunk_tokens);
  void LayOut();
  void Pool(const float* rows, absl::Span<const int32_t> chunk_begin, bool routing, size_t offset,
            size_t scales);
  const char* Layer(int layer) const { return fetched_.as<char>(layer * layer_bytes_); }

  const kernels::Backend& backend_;
  const PoolingSpec spec_;
  const bool cosine_;
  const int num_layers_;
  Pooled routing_, content_;
  std::vector<int32_t> each_key_;  // 0, 1, …: every routing chunk a row
  // Byte offsets in a layer: keys at 0.
  size_t key_scales_ = 0, k_ = 0, k_scales_ = 0, v_ = 0, v_scales_ = 0;
  size_t layer_bytes_ = 0;
  int next_layer_ = 0;
  kernels::Buffer computed_;  // of the backend
  kernels::Buffer fetched_;   // of the processor
  std::unique_ptr<kernels::Mark> fetched_mark_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_ENCODED_PASS_H_

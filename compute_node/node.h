// A compute node in this process: the model, its tokenizer, the encoder, and the questions being
// answered.
#ifndef MSA_COMPUTE_NODE_NODE_H_
#define MSA_COMPUTE_NODE_NODE_H_

#include <cstddef>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "compute_node/answering.h"
#include "compute_node/content_cache.h"
#include "compute_node/decoding.h"
#include "compute_node/encoder.h"
#include "compute_node/memory_session.h"
#include "compute_node/model/tokenizer.h"
#include "compute_node/model/transformer.h"
#include "compute_node/observer.h"
#include "compute_node/pass_sharer.h"
#include "rpc/compute_node.h"

namespace msa::compute_node {

struct NodeOptions {
  std::string model_dir;       // Hugging Face files
  std::string weights_file;    // instead of the folder's, when not empty
  std::string tokenizer_file;  // instead of the folder's tokenizer.json, when not empty
  std::string adapter_dir;     // empty: none
  kernels::WeightFormat weights = kernels::WeightFormat::kFloat32;
  size_t content_cache_bytes = size_t{1} << 30;
  int prefetch_layers = 8;                           // MemoryAccess
  absl::Duration fetch_timeout = absl::Seconds(60);  // MemoryAccess
  int max_sessions = 16;                             // questions answered at once; more wait
  int max_waiting = 256;                             // more are refused
};

class Node : public rpc::ComputeNode {
 public:
  // Loads the model: seconds. NOT_FOUND, INVALID_ARGUMENT naming the file and what is wrong with
  // it. `backend` must outlive it.
  static absl::StatusOr<std::unique_ptr<Node>> Load(const NodeOptions& options,
                                                    const kernels::Backend& backend);

  // From a model that is loaded already; of the options, what has to do with files is not read.
  static absl::StatusOr<std::unique_ptr<Node>> Make(const NodeOptions& options, std::string name,
                                                    std::unique_ptr<Tokenizer> tokenizer,
                                                    ModelConfig config, ModelWeights weights,
                                                    const kernels::Backend& backend);

  // Before the first question or document. Both must outlive the node's last call; shards in the
  // shard map's order. `shard_names`, the map's, are what a partial answer calls those it missed;
  // without them a shard that gives no blocks fails the answer.
  void Attach(rpc::SessionRouter* router, std::vector<rpc::MemoryShard*> shards,
              std::vector<std::string> shard_names = {});

  // Before the first question or document. Must outlive the node's last call; null: nobody counts.
  void Observe(Observer* observer) { observer_ = observer; }

  // Questions being answered and waiting to be; the cache of blocks.
  struct Usage {
    int running = 0;
    int waiting = 0;
    ContentCache::Usage cache;
  };
  Usage usage() const;

  absl::StatusOr<rpc::ModelInfo> Info(const rpc::CallContext& ctx) override;
  absl::StatusOr<std::vector<rpc::ByteSpan>> SplitDocument(const rpc::CallContext& ctx,
                                                           const std::string& full_text,
                                                           int32_t part_tokens) override;
  absl::StatusOr<rpc::PutResult> EncodeDocument(const rpc::CallContext& ctx,
                                                const rpc::EncodeRequest& request) override;
  absl::Status Generate(const rpc::CallContext& ctx, const rpc::GenerateRequest& request,
                        const rpc::EventSink& sink) override;
  absl::StatusOr<rpc::RetrieveReply> Retrieve(const rpc::CallContext& ctx,
                                              const rpc::RetrieveRequest& request) override;

  const Transformer& transformer() const { return *transformer_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const TemplatePrefix& prefix() const { return *prefix_; }
  const MemoryAccess& memory() const { return memory_; }
  DocumentEncoder& encoder() { return *encoder_; }
  StepBatcher& steps() { return *steps_; }

 private:
  class Admission;  // one of max_sessions places, held while a question is answered

  explicit Node(const NodeOptions& options);
  AnsweringParts Parts() const;
  absl::Status Answer(const rpc::CallContext& ctx, const rpc::GenerateRequest& request,
                      const rpc::EventSink& sink);
  DType WeightsDType() const;

  NodeOptions options_;
  std::string name_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<TemplatePrefix> prefix_;
  std::unique_ptr<DocumentEncoder> encoder_;
  std::unique_ptr<StepBatcher> steps_;
  std::unique_ptr<PassSharer> passes_;
  ContentCache cache_;
  rpc::WorkerPool fetchers_;
  MemoryAccess memory_;
  Observer* observer_ = nullptr;
  mutable absl::Mutex mu_;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  std::list<const Admission*> waiting_ ABSL_GUARDED_BY(mu_);  // first come, first served
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_NODE_H_

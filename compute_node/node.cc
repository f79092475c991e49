#include "compute_node/node.h"

#include <filesystem>
#include <limits>
#include <utility>
#include <variant>

#include "absl/time/clock.h"
#include "common/check.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/bank_fit.h"
#include "compute_node/model/text_splitter.h"
#include "rpc/caller.h"

namespace msa::compute_node {
namespace {

constexpr size_t kMaxConfigBytes = 1u << 20;
// Words may merge differently at a part's edges once it is wrapped.
constexpr int32_t kSeamTokens = 2;
// Of all questions, a shard each and more where layers ask anew; one that finds none free asks its
// shards in turn, and each to its end.
constexpr int kFetchers = 256;

absl::Status InFile(const absl::Status& status, const std::string& file) {
  if (status.ok()) return status;
  return absl::Status(status.code(), StrCat(file, ": ", status.message()));
}

absl::StatusOr<ModelConfig> LoadConfig(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  MSA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  auto config = ParseModelConfig(text);
  if (!config.ok()) return InFile(config.status(), path);
  return config;
}

int64_t NumTokens(const std::vector<rpc::EncodedPart>& parts) {
  int64_t sum = 0;
  for (const rpc::EncodedPart& part : parts) sum += part.num_tokens;
  return sum;
}

std::string ModelName(const std::string& dir) {
  std::filesystem::path path = std::filesystem::path(dir).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  return path.filename().string();
}

}  // namespace

Node::Node(const NodeOptions& options)
    : options_(options), cache_(options.content_cache_bytes), fetchers_(kFetchers, /*queue=*/0) {}

absl::StatusOr<std::unique_ptr<Node>> Node::Load(const NodeOptions& options,
                                                 const kernels::Backend& backend) {
  MSA_ASSIGN_OR_RETURN(ModelConfig config, LoadConfig(options.model_dir));
  WeightSource source;
  source.model_dir = options.model_dir;
  source.weights_file = options.weights_file;
  if (!options.adapter_dir.empty()) {
    MSA_ASSIGN_OR_RETURN(source.adapter, ReadAdapterConfig(options.adapter_dir, config));
  }
  const std::string tokenizer_file = options.tokenizer_file.empty()
                                         ? options.model_dir + "/tokenizer.json"
                                         : options.tokenizer_file;
  MSA_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(tokenizer_file));
  if (tokenizer->vocab_size() > config.vocab_size) {
    return absl::InvalidArgumentError(
        StrCat(tokenizer_file, " has token ids up to ", tokenizer->vocab_size() - 1,
               ", the model only ", config.vocab_size, " embeddings: they do not belong together"));
  }
  MSA_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(source, config, backend, options.weights));
  return Make(options, ModelName(options.model_dir), std::move(tokenizer), std::move(config),
              std::move(weights), backend);
}

absl::StatusOr<std::unique_ptr<Node>> Node::Make(const NodeOptions& options, std::string name,
                                                 std::unique_ptr<Tokenizer> tokenizer,
                                                 ModelConfig config, ModelWeights weights,
                                                 const kernels::Backend& backend) {
  std::unique_ptr<Node> node(new Node(options));
  node->name_ = std::move(name);
  node->tokenizer_ = std::move(tokenizer);
  MSA_ASSIGN_OR_RETURN(node->transformer_,
                       Transformer::Make(std::move(config), std::move(weights), backend));
  MSA_ASSIGN_OR_RETURN(TemplatePrefix prefix,
                       TemplatePrefix::Make(*node->transformer_, *node->tokenizer_));
  node->prefix_ = std::make_unique<TemplatePrefix>(std::move(prefix));
  node->encoder_ = std::make_unique<DocumentEncoder>(*node->transformer_, *node->tokenizer_);
  node->steps_ = std::make_unique<StepBatcher>(*node->transformer_);
  // On a processor a prompt alone keeps all cores busy.
  node->passes_ =
      std::make_unique<PassSharer>(*node->transformer_, /*joins=*/!backend.memory_is_host());
  node->memory_.passes = node->passes_.get();
  return node;
}

void Node::Attach(rpc::SessionRouter* router, std::vector<rpc::MemoryShard*> shards,
                  std::vector<std::string> shard_names) {
  memory_.router = router;
  memory_.shards = std::move(shards);
  memory_.shard_names = std::move(shard_names);
  memory_.cache = &cache_;
  memory_.fetchers = &fetchers_;
  memory_.prefetch_layers = options_.prefetch_layers;
  memory_.fetch_timeout = options_.fetch_timeout;
}

AnsweringParts Node::Parts() const {
  return {*transformer_, *tokenizer_, *prefix_, memory_, *steps_};
}

Node::Usage Node::usage() const {
  Usage usage;
  usage.cache = cache_.usage();
  absl::MutexLock lock(&mu_);
  usage.running = running_;
  usage.waiting = static_cast<int>(waiting_.size());
  return usage;
}

absl::StatusOr<rpc::ModelInfo> Node::Info(const rpc::CallContext&) {
  const ModelConfig& config = transformer_->config();
  rpc::ModelInfo info;
  info.fingerprint = transformer_->fingerprint();
  info.name = name_;
  info.has_trained_routers = config.memory.decoupled_router;
  info.retrieval_mode = std::string(RetrievalModeName(config.memory.retrieval_mode));
  rpc::BankSpec& bank = info.default_bank;
  bank.model_fingerprint = info.fingerprint;
  bank.model_name = info.name;
  bank.router_layers = config.memory.router_layers;
  bank.routing = config.Routing();
  bank.routing_chunk_tokens = config.memory.routing_chunk_tokens;
  bank.content_chunk_tokens = config.memory.content_chunk_tokens;
  bank.part_tokens = config.memory.part_tokens;
  bank.weights_dtype = WeightsDType();
  return info;
}

absl::StatusOr<std::vector<rpc::ByteSpan>> Node::SplitDocument(const rpc::CallContext&,
                                                               const std::string& full_text,
                                                               int32_t part_tokens) {
  if (part_tokens < 1 || part_tokens > kMaxPartTokens) {
    return absl::InvalidArgumentError(
        StrCat("part_tokens is ", part_tokens, ": use 1 to ", kMaxPartTokens));
  }
  // The frame around a part with the longest reference number there is.
  const Frames frames(*tokenizer_, /*parse_special_tokens=*/false);
  MSA_ASSIGN_OR_RETURN(const auto frame,
                       frames.Document({std::numeric_limits<int32_t>::max(), ""}));
  const auto room = part_tokens - static_cast<int32_t>(frame.size()) - kSeamTokens;
  if (room < 1) {
    return absl::InvalidArgumentError(StrCat("part_tokens ", part_tokens, " leaves no room beside ",
                                             frame.size(), " tokens of frame: use 64 or more"));
  }
  MSA_ASSIGN_OR_RETURN(const auto ranges, SplitText(*tokenizer_, full_text, room));
  std::vector<rpc::ByteSpan> spans;
  for (const ByteRange& range : ranges) spans.push_back({range.begin, range.end});
  return spans;
}

DType Node::WeightsDType() const {
  switch (options_.weights) {
    case kernels::WeightFormat::kFloat32:
      return DType::kFloat32;
    case kernels::WeightFormat::kBFloat16:
      return DType::kBFloat16;
    case kernels::WeightFormat::kInt8:
      return DType::kInt8;
  }
  MSA_CHECK(false);
}

absl::StatusOr<rpc::PutResult> Node::EncodeDocument(const rpc::CallContext& ctx,
                                                    const rpc::EncodeRequest& request) {
  MSA_RETURN_IF_ERROR(CheckBankFits(request.bank, *transformer_));
  MSA_RETURN_IF_ERROR(rpc::CheckWeights(request.bank, WeightsDType()));
  if (request.shard < 0 || request.shard >= static_cast<int32_t>(memory_.shards.size())) {
    return absl::InvalidArgumentError(
        StrCat("shard ", request.shard, " is not in this node's shard map of ",
               memory_.shards.size(), ": router and compute nodes need the same map"));
  }
  const std::string full_text = request.document.FullText();
  std::vector<ReferencedText> texts;
  uint64_t end = 0;
  for (const rpc::ByteSpan& span : request.parts) {
    if (span.begin > span.end || span.end > full_text.size()) {
      return absl::InvalidArgumentError("a part's span lies outside its document");
    }
    if (span.begin < end || (span.begin == span.end && request.parts.size() > 1)) {
      return absl::InvalidArgumentError(
          "the parts' spans overlap, do not ascend, or are empty: send those of SplitDocument");
    }
    end = span.end;
    texts.push_back({request.first_reference + static_cast<int64_t>(texts.size()),
                     full_text.substr(span.begin, span.end - span.begin)});
  }
  rpc::EncodedDocument encoded;
  const absl::Time start = absl::Now();
  MSA_ASSIGN_OR_RETURN(encoded.parts, encoder_->Encode(ctx, request.bank, texts));
  if (observer_ != nullptr) observer_->OnEncoded(NumTokens(encoded.parts), absl::Now() - start);
  for (size_t i = 0; i < encoded.parts.size(); ++i) encoded.parts[i].span = request.parts[i];
  encoded.bank = request.bank.name;
  encoded.bank_uid = request.bank.uid;
  encoded.model_fingerprint = request.bank.model_fingerprint;
  encoded.document = request.document;
  MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
  return memory_.shards[request.shard]->PutDocument(ctx, encoded);
}

class Node::Admission {
 public:
  explicit Admission(Node& node) : node_(node) {}
  ~Admission() {
    absl::MutexLock lock(&node_.mu_);
    if (admitted_) --node_.running_;
  }

  // Waits for a place, in the order of the calls; returns how long. RESOURCE_EXHAUSTED when too
  // many wait, DEADLINE_EXCEEDED, CANCELLED.
  absl::StatusOr<absl::Duration> Wait(const rpc::CallContext& ctx) {
    const absl::Time start = absl::Now();
    absl::MutexLock lock(&node_.mu_);
    if (node_.running_ >= node_.options_.max_sessions || !node_.waiting_.empty()) {
      if (static_cast<int>(node_.waiting_.size()) >= node_.options_.max_waiting) {
        return absl::ResourceExhaustedError(
            StrCat(node_.waiting_.size(), " questions wait already: try again later"));
      }
      const auto own = node_.waiting_.insert(node_.waiting_.end(), this);
      const absl::Status status = AwaitPlace(ctx);
      node_.waiting_.erase(own);
      MSA_RETURN_IF_ERROR(status);
    }
    ++node_.running_;
    admitted_ = true;
    return absl::Now() - start;
  }

 private:
  absl::Status AwaitPlace(const rpc::CallContext& ctx) ABSL_EXCLUSIVE_LOCKS_REQUIRED(node_.mu_) {
    const auto place = [this]() {
      return node_.waiting_.front() == this && node_.running_ < node_.options_.max_sessions;
    };
    return rpc::AwaitFor(ctx, node_.mu_, absl::Condition(&place), "no place came free in time");
  }

  Node& node_;
  bool admitted_ = false;
};

absl::Status Node::Answer(const rpc::CallContext& ctx, const rpc::GenerateRequest& request,
                          const rpc::EventSink& sink) {
  Admission admission(*this);
  MSA_ASSIGN_OR_RETURN(const absl::Duration queued, admission.Wait(ctx));
  return AnswerQuestion(ctx, Parts(), request, queued, sink);
}

absl::Status Node::Generate(const rpc::CallContext& ctx, const rpc::GenerateRequest& request,
                            const rpc::EventSink& sink) {
  if (observer_ == nullptr) return Answer(ctx, request, sink);
  bool answered = false;
  const absl::Status status = Answer(ctx, request, [&](const rpc::GenerateEvent& event) {
    if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) {
      answered = true;
      observer_->OnAnswered(*done);
    }
    return sink(event);
  });
  if (!answered) observer_->OnUnanswered(status.code());
  return status;
}

absl::StatusOr<rpc::RetrieveReply> Node::Retrieve(const rpc::CallContext& ctx,
                                                  const rpc::RetrieveRequest& request) {
  Admission admission(*this);
  MSA_ASSIGN_OR_RETURN(const absl::Duration queued, admission.Wait(ctx));
  MSA_ASSIGN_OR_RETURN(rpc::RetrieveReply reply, RetrieveDocuments(ctx, Parts(), request));
  reply.timings.queue = absl::ToDoubleMilliseconds(queued);
  reply.timings.total += reply.timings.queue;
  if (observer_ != nullptr) observer_->OnRetrieved(reply);
  return reply;
}

}  // namespace msa::compute_node

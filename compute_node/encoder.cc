#include "compute_node/encoder.h"

#include <algorithm>
#include <utility>

#include "common/block_layout.h"
#include "common/crc32c.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::compute_node {
namespace {

// Enough rows for a dense product to run at full speed; more would only add memory.
constexpr size_t kBatchTokens = 1024;

int64_t NumChunks(int64_t tokens, int64_t chunk_tokens) {
  return (tokens + chunk_tokens - 1) / chunk_tokens;
}

}  // namespace

absl::StatusOr<std::string> BlockBuilder::Routing(const float* router_keys,
                                                  int64_t num_tokens) const {
  const int64_t chunks = NumChunks(num_tokens, bank_.routing_chunk_tokens);
  const int64_t width = bank_.routing.key_width();
  MSA_ASSIGN_OR_RETURN(const kernels::Buffer memory,
                       backend_.Allocate(chunks * width * sizeof(float)));
  auto* pooled = memory.as<float>();
  backend_.PoolChunks(router_keys, num_tokens, width, bank_.routing_chunk_tokens, pooled);
  if (cosine_) {
    backend_.L2Normalize(pooled, chunks * bank_.routing.num_kv_heads, bank_.routing.head_dim);
  }
  const RoutingBlockLayout layout(bank_.routing_dtype, chunks, width);
  std::string block(layout.size, '\0');
  auto* scales = reinterpret_cast<float*>(block.data() + layout.scales_offset);
  backend_.Quantize(pooled, chunks, width, bank_.routing_dtype, block.data(), scales);
  return block;
}

absl::StatusOr<std::string> BlockBuilder::Content(const float* k, const float* v,
                                                  int64_t num_tokens) const {
  const int64_t chunks = NumChunks(num_tokens, bank_.content_chunk_tokens);
  const int heads = bank_.routing.num_kv_heads;
  const int head_dim = bank_.routing.head_dim;
  const int64_t width = int64_t{heads} * head_dim;
  const ContentBlockLayout layout(bank_.content_dtype, chunks, heads, head_dim);
  std::string block(layout.size, '\0');
  MSA_ASSIGN_OR_RETURN(const kernels::Buffer memory,
                       backend_.Allocate(chunks * width * sizeof(float)));
  auto* pooled = memory.as<float>();
  const auto add = [&](const float* rows, size_t offset, size_t scales_offset) {
    backend_.PoolChunks(rows, num_tokens, width, bank_.content_chunk_tokens, pooled);
    auto* scales = reinterpret_cast<float*>(block.data() + scales_offset);
    backend_.Quantize(pooled, chunks * heads, head_dim, bank_.content_dtype, block.data() + offset,
                      scales);
  };
  add(k, 0, layout.k_scales_offset);
  add(v, layout.v_offset, layout.v_scales_offset);
  return block;
}

struct DocumentEncoder::Job {
  const rpc::BankSpec* bank;
  std::vector<std::vector<int32_t>> tokens;  // a part each
  std::vector<rpc::EncodedPart> parts;
  absl::Status status;

  size_t num_tokens() const {
    size_t sum = 0;
    for (const auto& part : tokens) sum += part.size();
    return sum;
  }
};

namespace {

// Turns each router layer's inputs into blocks as the pass goes by.
class PoolingHook : public ForwardHook {
 public:
  struct Target {
    const rpc::BankSpec* bank;
    rpc::EncodedPart* part;
    int64_t num_tokens;
  };

  PoolingHook(const Transformer& transformer, std::vector<Target> targets)
      : transformer_(transformer), targets_(std::move(targets)) {}

  int LastNeededLayer() const override { return transformer_.config().memory.router_layers.back(); }

  absl::Status OnAttentionInputs(int layer, const AttentionInputs& inputs) override {
    const MemoryConfig& memory = transformer_.config().memory;
    if (!std::binary_search(memory.router_layers.begin(), memory.router_layers.end(), layer)) {
      return absl::OkStatus();
    }
    MSA_ASSIGN_OR_RETURN(const kernels::Buffer router_keys, transformer_.RouterKeys(layer, inputs));
    const int64_t width = transformer_.kv_width();
    int64_t row = 0;
    for (const Target& target : targets_) {
      const BlockBuilder builder(transformer_.backend(), *target.bank, memory.cosine);
      rpc::EncodedLayer encoded;
      MSA_ASSIGN_OR_RETURN(
          std::string routing,
          builder.Routing(router_keys.as<float>() + row * width, target.num_tokens));
      MSA_ASSIGN_OR_RETURN(
          std::string content,
          builder.Content(inputs.k + row * width, inputs.v + row * width, target.num_tokens));
      encoded.routing_crc32c = Crc32c(routing);
      encoded.content_crc32c = Crc32c(content);
      encoded.routing = rpc::Payload(std::move(routing));
      encoded.content = rpc::Payload(std::move(content));
      target.part->layers.push_back(std::move(encoded));
      row += target.num_tokens;
    }
    return absl::OkStatus();
  }

 private:
  const Transformer& transformer_;
  std::vector<Target> targets_;
};

}  // namespace

DocumentEncoder::DocumentEncoder(const Transformer& transformer, const Tokenizer& tokenizer)
    : transformer_(transformer),
      tokenizer_(tokenizer),
      batcher_(
          kBatchTokens, [](const Job& job) { return job.num_tokens(); },
          [this](absl::Span<Job* const> jobs) { Process(jobs); }) {}

absl::StatusOr<std::vector<rpc::EncodedPart>> DocumentEncoder::Encode(
    const rpc::BankSpec& bank, absl::Span<const ReferencedText> parts) {
  const Frames frames(tokenizer_, bank.parse_special_tokens);
  const int64_t limit = std::min<int64_t>(kMaxEncodeTokens, transformer_.config().max_positions);
  Job job{&bank, {}, {}, {}};
  for (const ReferencedText& part : parts) {
    MSA_ASSIGN_OR_RETURN(auto ids, frames.Document(part));
    const auto num_tokens = static_cast<int64_t>(ids.size());
    if (num_tokens > limit) {
      return absl::InvalidArgumentError(StrCat("a part has ", num_tokens,
                                               " tokens, this model takes ", limit,
                                               ": give the bank a smaller part_tokens"));
    }
    rpc::EncodedPart encoded;
    encoded.reference = part.reference;
    encoded.num_tokens = static_cast<int32_t>(num_tokens);
    encoded.routing_chunks = static_cast<int32_t>(NumChunks(num_tokens, bank.routing_chunk_tokens));
    encoded.content_chunks = static_cast<int32_t>(NumChunks(num_tokens, bank.content_chunk_tokens));
    job.parts.push_back(std::move(encoded));
    job.tokens.push_back(std::move(ids));
  }
  if (!job.tokens.empty()) batcher_.Run(&job);
  MSA_RETURN_IF_ERROR(job.status);
  return std::move(job.parts);
}

void DocumentEncoder::Process(absl::Span<Job* const> jobs) {
  // A book's parts are one job: they pass in runs of about kBatchTokens, so that memory stays
  // bounded.
  std::vector<SequenceChunk> sequences;
  std::vector<PoolingHook::Target> targets;
  size_t rows = 0;
  absl::Status status;
  const auto flush = [&]() {
    if (sequences.empty()) return;
    PoolingHook hook(transformer_, std::move(targets));
    if (auto done = transformer_.Forward(sequences, &hook); !done.ok()) status = done.status();
    sequences.clear();
    targets.clear();
    rows = 0;
  };
  for (Job* job : jobs) {
    for (size_t i = 0; i < job->tokens.size(); ++i) {
      const std::vector<int32_t>& tokens = job->tokens[i];
      if (rows + tokens.size() > kBatchTokens) flush();
      SequenceChunk sequence;
      sequence.tokens = tokens;
      sequences.push_back(sequence);
      targets.push_back({job->bank, &job->parts[i], static_cast<int64_t>(tokens.size())});
      rows += tokens.size();
    }
  }
  flush();
  for (Job* job : jobs) job->status = status;
}

}  // namespace msa::compute_node

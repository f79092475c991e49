#include "compute_node/encoder.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "common/crc32c.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/encoded_pass.h"
#include "rpc/caller.h"

namespace msa::compute_node {
namespace {

// Enough rows for a dense product to run at full speed; more would only add memory.
constexpr size_t kBatchTokens = 1024;
constexpr size_t kDeviceBatchTokens = 8192;

size_t BatchTokens(const kernels::Backend& backend) {
  return backend.memory_is_host() ? kBatchTokens : kDeviceBatchTokens;
}

// So many layers are asked for before a device has done them: enough that it never waits, and no
// more, since what others ask for stands behind them.
constexpr size_t kLayersAhead = 4;

int64_t NumChunks(int64_t tokens, int64_t chunk_tokens) {
  return (tokens + chunk_tokens - 1) / chunk_tokens;
}

// Where a part's blocks are once it has been encoded.
struct PassedPart {
  std::shared_ptr<const EncodedPass> pass;
  size_t index = 0;
};

// Pools each router layer's inputs as the pass goes by.
class PoolingHook : public ForwardHook {
 public:
  // `asked_for`: marks behind the last layers, of the passes before too.
  PoolingHook(const Transformer& transformer, EncodedPass& pass,
              std::deque<std::unique_ptr<kernels::Mark>>& asked_for)
      : transformer_(transformer), pass_(pass), asked_for_(asked_for) {}

  int LastNeededLayer() const override { return transformer_.config().memory.router_layers.back(); }

  absl::Status OnAttentionInputs(int layer, const AttentionInputs& inputs) override {
    KeepPace();
    const std::vector<int32_t>& routed = transformer_.config().memory.router_layers;
    if (!std::binary_search(routed.begin(), routed.end(), layer)) return absl::OkStatus();
    MSA_ASSIGN_OR_RETURN(const kernels::Buffer router_keys,
                         transformer_.RouterKeys(layer, inputs, pass_.routing_chunks()));
    pass_.AddLayer(router_keys.as<float>(), inputs.k, inputs.v);
    return absl::OkStatus();
  }

 private:
  void KeepPace() {
    auto mark = transformer_.backend().MakeMark();
    if (mark == nullptr) return;
    asked_for_.push_back(std::move(mark));
    if (asked_for_.size() <= kLayersAhead) return;
    asked_for_.front()->Wait();
    asked_for_.pop_front();
  }

  const Transformer& transformer_;
  EncodedPass& pass_;
  std::deque<std::unique_ptr<kernels::Mark>>& asked_for_;
};

// Blocks of one part, from the memory they have come over to.
void CutOut(const PassedPart& from, rpc::EncodedPart& part) {
  for (int layer = 0; layer < from.pass->num_layers(); ++layer) {
    rpc::EncodedLayer& encoded = part.layers.emplace_back();
    std::string routing = from.pass->Routing(layer, from.index);
    std::string content = from.pass->Content(layer, from.index);
    encoded.routing_crc32c = Crc32c(routing);
    encoded.content_crc32c = Crc32c(content);
    encoded.routing = rpc::Payload(std::move(routing));
    encoded.content = rpc::Payload(std::move(content));
  }
}

}  // namespace

struct DocumentEncoder::Job {
  const rpc::CallContext& ctx;
  const rpc::BankSpec* bank;
  std::vector<std::vector<int32_t>> tokens;  // a part each
  std::vector<rpc::EncodedPart> parts;
  std::vector<PassedPart> passed;
  absl::Status status;

  size_t num_tokens() const {
    size_t sum = 0;
    for (const auto& part : tokens) sum += part.size();
    return sum;
  }
};

struct DocumentEncoder::Unit {
  Job* job;
  size_t part;
  const std::vector<int32_t>& tokens() const { return job->tokens[part]; }
};

DocumentEncoder::DocumentEncoder(const Transformer& transformer, const Tokenizer& tokenizer)
    : transformer_(transformer),
      tokenizer_(tokenizer),
      batcher_(
          BatchTokens(transformer.backend()), [](const Job& job) { return job.num_tokens(); },
          [this](absl::Span<Job* const> jobs) { Process(jobs); }) {}

absl::StatusOr<std::vector<rpc::EncodedPart>> DocumentEncoder::Encode(
    const rpc::CallContext& ctx, const rpc::BankSpec& bank,
    absl::Span<const ReferencedText> parts) {
  const Frames frames(tokenizer_, bank.parse_special_tokens);
  const int64_t limit = std::min<int64_t>(kMaxEncodeTokens, transformer_.config().max_positions);
  Job job{ctx, &bank, {}, {}, {}, {}};
  for (const ReferencedText& part : parts) {
    MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
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
  for (const PassedPart& passed : job.passed) passed.pass->Wait();
  MSA_RETURN_IF_ERROR(transformer_.backend().Health());
  for (size_t i = 0; i < job.parts.size(); ++i) {
    CutOut(job.passed[i], job.parts[i]);
    job.passed[i].pass.reset();
  }
  return std::move(job.parts);
}

absl::Status DocumentEncoder::RunPass(absl::Span<const Unit> units) {
  std::vector<SequenceChunk> sequences;
  std::vector<int64_t> part_tokens;
  for (const Unit& unit : units) {
    sequences.emplace_back().tokens = unit.tokens();
    part_tokens.push_back(static_cast<int64_t>(unit.tokens().size()));
  }
  const MemoryConfig& memory = transformer_.config().memory;
  MSA_ASSIGN_OR_RETURN(
      std::shared_ptr<EncodedPass> pass,
      EncodedPass::Make(transformer_.backend(), PoolingSpec::Of(*units.front().job->bank),
                        memory.cosine, part_tokens, static_cast<int>(memory.router_layers.size())));
  PoolingHook hook(transformer_, *pass, asked_for_);
  MSA_RETURN_IF_ERROR(transformer_.Forward(sequences, &hook).status());
  MSA_RETURN_IF_ERROR(pass->StartFetch());
  MSA_RETURN_IF_ERROR(transformer_.backend().Health());
  for (size_t i = 0; i < units.size(); ++i) units[i].job->passed[units[i].part] = {pass, i};
  return absl::OkStatus();
}

void DocumentEncoder::Process(absl::Span<Job* const> jobs) {
  std::vector<Unit> units;
  for (Job* job : jobs) {
    job->passed.resize(job->tokens.size());
    for (size_t i = 0; i < job->tokens.size(); ++i) units.push_back({job, i});
  }
  // A book's parts are one job: they pass in runs of about as many tokens as a batch has, so that
  // memory stays bounded; in shorter ones when there is too little of it.
  size_t limit = BatchTokens(transformer_.backend());
  absl::Status status;
  for (size_t begin = 0; begin < units.size() && status.ok();) {
    for (Job* job : jobs) job->status.Update(rpc::CheckCaller(job->ctx));
    if (!units[begin].job->status.ok()) {
      ++begin;
      continue;
    }
    const PoolingSpec spec = PoolingSpec::Of(*units[begin].job->bank);
    size_t end = begin;
    size_t tokens = 0;
    while (end < units.size() && units[end].job->status.ok() &&
           PoolingSpec::Of(*units[end].job->bank) == spec &&
           (end == begin || tokens + units[end].tokens().size() <= limit)) {
      tokens += units[end++].tokens().size();
    }
    status = RunPass(absl::MakeConstSpan(units).subspan(begin, end - begin));
    if (absl::IsResourceExhausted(status) && end - begin > 1) {
      limit = std::min(limit, tokens) / 2;
      status = absl::OkStatus();
      continue;
    }
    begin = end;
  }
  for (Job* job : jobs) job->status.Update(status);
}

}  // namespace msa::compute_node

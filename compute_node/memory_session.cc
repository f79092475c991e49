#include "compute_node/memory_session.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/bank_fit.h"
#include "compute_node/stopwatch.h"
#include "rpc/fan_out.h"

namespace msa::compute_node {
namespace {

constexpr absl::Duration kCloseTimeout = absl::Seconds(5);

// Positions start at the literal 3 + k whatever the head's length; k is the checkpoint's, so that a
// request for more documents does not move the prompt.
int32_t FirstPosition(const ModelConfig& config) { return 3 + config.memory.top_k; }

}  // namespace

absl::StatusOr<TemplatePrefix> TemplatePrefix::Make(const Transformer& transformer,
                                                    const Tokenizer& tokenizer) {
  const Frames frames(tokenizer, /*parse_special_tokens=*/true);
  MSA_ASSIGN_OR_RETURN(const std::vector<int32_t> head, frames.TemplateHead());
  auto cache = std::make_shared<KvCache>(transformer.NewCache(static_cast<int64_t>(head.size())));
  SequenceChunk sequence;
  sequence.tokens = head;
  sequence.cache = cache.get();
  MSA_RETURN_IF_ERROR(transformer.Forward({&sequence, 1}, nullptr).status());
  return TemplatePrefix(std::move(cache));
}

// Routes at every router layer and fills the pass's context with what was selected.
class MemorySession::RoutingHook : public RoutedHook {
 public:
  RoutingHook(MemorySession& session, const rpc::CallContext& ctx, const RoutingPrompt& prompt,
              int32_t top_k, Prefill& prefill, ForwardHook* observer)
      : session_(session),
        ctx_(ctx),
        prompt_(prompt),
        top_k_(top_k),
        prefill_(prefill),
        observer_(observer) {}

  absl::Status OnAttentionInputs(int layer, const AttentionInputs& inputs) override {
    if (observer_ != nullptr) MSA_RETURN_IF_ERROR(observer_->OnAttentionInputs(layer, inputs));
    return Ask(session_.transformer_, layer, inputs);
  }

  bool Routes(int layer) const override {
    const std::vector<int32_t>& routed = session_.bank().router_layers;
    return std::binary_search(routed.begin(), routed.end(), layer);
  }
  const RoutingShape& shape() const override { return session_.bank().routing; }
  absl::Span<const int32_t> query_rows() const override { return prompt_.routing_rows; }

  absl::Status OnQueries(int layer, std::vector<float> queries) override {
    if (ctx_.Cancelled()) return absl::CancelledError("the client went away");
    if (absl::Now() > ctx_.deadline) return absl::DeadlineExceededError("out of time in prefill");
    prefill_.context->layers[layer].push_back(session_.prefix_.View(layer));
    if (queries.empty()) return absl::OkStatus();
    rpc::Selection selection;
    {
      const Stopwatch watch(session_.timings_.route);
      MSA_ASSIGN_OR_RETURN(selection, session_.memory_.router->Route(
                                          ctx_, session_.info_.session_id, session_.round_, layer,
                                          top_k_, std::move(queries)));
    }
    session_.NoteMissing(selection.missing_shards);
    rpc::AddComparisons(selection.comparisons, &session_.comparisons_);
    rpc::LayerSelection& chosen = prefill_.selections.emplace_back();
    chosen.layer = layer;
    for (const rpc::RoutedPart& part : selection.parts) chosen.parts.push_back(part.scored);
    const Stopwatch watch(session_.timings_.fetch);
    return session_.Gather(ctx_, layer, selection.parts, *prefill_.context);
  }

  bool WatchesLayerOutputs() const override {
    return observer_ != nullptr && observer_->WatchesLayerOutputs();
  }
  void OnLayerOutput(int layer, const float* hidden) override {
    observer_->OnLayerOutput(layer, hidden);
  }

 private:
  MemorySession& session_;
  const rpc::CallContext& ctx_;
  const RoutingPrompt& prompt_;
  int32_t top_k_;
  Prefill& prefill_;
  ForwardHook* observer_;
};

MemorySession::MemorySession(const Transformer& transformer, const TemplatePrefix& prefix,
                             const MemoryAccess& memory, rpc::SessionInfo info, bool allow_partial)
    : transformer_(transformer),
      prefix_(prefix),
      memory_(memory),
      info_(std::move(info)),
      allow_partial_(allow_partial),
      fetcher_(*memory.fetchers) {
  usage_.memory_parts = info_.num_parts;
  NoteMissing(info_.missing_shards);
}

absl::StatusOr<std::unique_ptr<MemorySession>> MemorySession::Open(
    const rpc::CallContext& ctx, const Transformer& transformer, const TemplatePrefix& prefix,
    const MemoryAccess& memory, const std::string& bank, const rpc::SessionOptions& options) {
  MSA_ASSIGN_OR_RETURN(rpc::SessionInfo info, memory.router->OpenSession(ctx, bank, options));
  std::unique_ptr<MemorySession> session(
      new MemorySession(transformer, prefix, memory, std::move(info), options.allow_partial));
  MSA_RETURN_IF_ERROR(CheckBankFits(session->bank(), transformer));
  if (session->info_.shard_snapshots.size() != memory.shards.size()) {
    return rpc::AboutNode(absl::FailedPreconditionError(
        StrCat("the router's shard map has ", session->info_.shard_snapshots.size(),
               " shards, that of this node ", memory.shards.size(),
               ": router and compute nodes need the same map")));
  }
  return session;
}

MemorySession::~MemorySession() {
  fetcher_.Stop();
  // The question's own deadline may be over; an unclosed session would only end by its ttl.
  rpc::CallContext ctx;
  ctx.deadline = absl::Now() + kCloseTimeout;
  memory_.router->CloseSession(ctx, info_.session_id).IgnoreError();
}

void MemorySession::NoteMissing(const std::vector<std::string>& shards) {
  for (const std::string& shard : shards) {
    if (std::find(missing_.begin(), missing_.end(), shard) == missing_.end()) {
      missing_.push_back(shard);
    }
  }
}

bool MemorySession::Holds(const RoutingPrompt& prompt) const {
  const ModelConfig& config = transformer_.config();
  return FirstPosition(config) + static_cast<int64_t>(prompt.ids.size()) < config.max_positions;
}

absl::StatusOr<Prefill> MemorySession::Route(const rpc::CallContext& ctx,
                                             const RoutingPrompt& prompt, int32_t top_k,
                                             ForwardHook* observer) {
  ++round_;
  const double waited = timings_.route + timings_.fetch;
  const absl::Time start = absl::Now();
  const ModelConfig& config = transformer_.config();
  const int32_t first_position = FirstPosition(config);
  const auto num_tokens = static_cast<int32_t>(prompt.ids.size());
  if (!Holds(prompt)) {
    return absl::InvalidArgumentError(StrCat(
        "the prompt has ", num_tokens, " tokens, more than this model's ", config.max_positions,
        " positions hold: ask a shorter question, or for fewer documents or rounds"));
  }
  Prefill prefill;
  constexpr int64_t kRoomToDecode = 256;
  prefill.cache = std::make_unique<KvCache>(transformer_.NewCache(num_tokens + kRoomToDecode));
  prefill.context = std::make_unique<AttentionContext>(config.num_layers);
  prefill.next_position = first_position + num_tokens;
  SequenceChunk sequence;
  sequence.tokens = prompt.ids;
  sequence.first_position = first_position;
  sequence.cache = prefill.cache.get();
  sequence.context = prefill.context.get();
  RoutingHook hook(*this, ctx, prompt, top_k, prefill, observer);
  MSA_ASSIGN_OR_RETURN(prefill.last_hidden, observer != nullptr
                                                ? transformer_.Forward({&sequence, 1}, &hook)
                                                : memory_.passes->Forward(sequence, &hook));
  usage_.prompt_tokens += num_tokens;
  usage_.rounds = round_;
  const double total = absl::ToDoubleMilliseconds(absl::Now() - start);
  timings_.prefill += total - (timings_.route + timings_.fetch - waited);
  return prefill;
}

ContentCache::Key MemorySession::KeyOf(int32_t shard, int64_t reference, int32_t layer) const {
  const auto start = static_cast<uint32_t>(info_.shard_snapshots[shard] >> 32);
  return {bank().uid, shard, start, reference, layer};
}

std::string MemorySession::NameOf(int32_t shard) const {
  const auto index = static_cast<size_t>(shard);
  return index < memory_.shard_names.size() ? memory_.shard_names[index] : std::to_string(shard);
}

absl::StatusOr<BlockFetcher::Block> MemorySession::Resident(BlockFetcher::Block block,
                                                            bool& may_drop) {
  using enum kernels::Backend::Purpose;
  auto resident = MakeResident(transformer_.backend(), bank(), block, kCache);
  if (absl::IsResourceExhausted(resident.status()) && std::exchange(may_drop, false) &&
      memory_.cache->DropHalf() > 0) {
    resident = MakeResident(transformer_.backend(), bank(), block, kCache);
  }
  if (!absl::IsResourceExhausted(resident.status())) return resident;
  return MakeResident(transformer_.backend(), bank(), std::move(block), kResident);
}

absl::StatusOr<BlockFetcher::Block> MemorySession::Keep(const ContentCache::Key& key,
                                                        rpc::FetchedBlock fetched, bool& may_drop) {
  fetched_bytes_ += static_cast<int64_t>(fetched.record.size());
  MSA_ASSIGN_OR_RETURN(auto block, ParseContentBlock(bank(), fetched.reference, fetched.layer,
                                                     std::move(fetched.record)));
  MSA_ASSIGN_OR_RETURN(block, Resident(std::move(block), may_drop));
  memory_.cache->Insert(key, block);
  return block;
}

absl::Status MemorySession::Fetch(const rpc::CallContext& ctx, int32_t shard,
                                  const rpc::FetchRequest& request,
                                  const BlockFetcher::Sink& sink) {
  // A shard that hangs keeps all who share the pass and all who wait for the next: not for as long
  // as this question may last.
  rpc::CallContext limited = ctx;
  limited.deadline = std::min(ctx.deadline, absl::Now() + memory_.fetch_timeout);
  bool may_drop = true;  // once: what it cannot give the first time it cannot give the next
  const absl::Status status =
      memory_.shards[shard]->FetchBlocks(limited, request, [&](rpc::FetchedBlock fetched) {
        const ContentCache::Key key = KeyOf(shard, fetched.reference, fetched.layer);
        return sink(key, Keep(key, std::move(fetched), may_drop));
      });
  if (absl::IsDeadlineExceeded(status) && absl::Now() < ctx.deadline) {
    return absl::UnavailableError(StrCat("shard '", NameOf(shard), "' gave no blocks in time"));
  }
  return rpc::NameLostSnapshot(status, NameOf(shard));
}

void MemorySession::StartFetch(const rpc::CallContext& ctx, int32_t layer, int32_t shard,
                               std::vector<int64_t> references) {
  const std::vector<int32_t>& routed = bank().router_layers;
  const auto first = std::lower_bound(routed.begin(), routed.end(), layer);
  const auto count = std::min<int64_t>(memory_.prefetch_layers, routed.end() - first);
  rpc::FetchRequest request;
  request.bank = bank().name;
  request.snapshot_id = info_.shard_snapshots[shard];
  request.references = std::move(references);
  request.layers.assign(first, first + count);
  std::vector<ContentCache::Key> keys;
  for (const int32_t wanted : request.layers) {
    for (const int64_t reference : request.references) {
      keys.push_back(KeyOf(shard, reference, wanted));
    }
  }
  fetcher_.Start(ctx, shard, keys,
                 [this, shard, request = std::move(request)](const rpc::CallContext& linked,
                                                             const BlockFetcher::Sink& sink) {
                   return Fetch(linked, shard, request, sink);
                 });
}

absl::Status MemorySession::Miss(int32_t shard, const absl::Status& status) {
  if (!allow_partial_ || !absl::IsUnavailable(status)) return status;
  unreachable_.insert(shard);
  if (static_cast<size_t>(shard) >= memory_.shard_names.size()) return status;
  NoteMissing({memory_.shard_names[shard]});
  return absl::OkStatus();
}

absl::Status MemorySession::Gather(const rpc::CallContext& ctx, int32_t layer,
                                   const std::vector<rpc::RoutedPart>& parts,
                                   AttentionContext& context) {
  // By reference, not by score: equal sets then give equal sums, however near their scores are.
  std::vector<ContentCache::Key> order;
  std::map<int32_t, std::vector<int64_t>> missing;  // by shard
  for (const rpc::RoutedPart& part : parts) {
    if (part.shard < 0 || std::cmp_greater_equal(part.shard, memory_.shards.size())) {
      return absl::InternalError(
          StrCat("the router selected from shard ", part.shard, " of ", memory_.shards.size()));
    }
    const ContentCache::Key& key =
        order.emplace_back(KeyOf(part.shard, part.scored.reference, layer));
    if (fetcher_.Has(key)) continue;
    if (auto block = memory_.cache->Find(key); block != nullptr) {
      fetcher_.Put(key, std::move(block));
    } else if (!unreachable_.contains(part.shard)) {
      missing[part.shard].push_back(key.reference);
    }
  }
  for (auto& [shard, references] : missing) StartFetch(ctx, layer, shard, std::move(references));
  MSA_ASSIGN_OR_RETURN(const auto errors,
                       fetcher_.Await(order, /*all_or_nothing=*/!allow_partial_));
  std::vector<absl::Status> statuses;
  for (const auto& [shard, status] : errors) statuses.push_back(Miss(shard, status));
  MSA_RETURN_IF_ERROR(rpc::FirstError(statuses));
  std::sort(order.begin(), order.end(),
            [](const auto& a, const auto& b) { return a.reference < b.reference; });
  for (const ContentCache::Key& key : order) {
    auto block = fetcher_.Find(key);
    if (block == nullptr) continue;  // deleted or out of reach since it was selected
    context.layers[layer].push_back(block->view);
    usage_.attended_chunks += block->view.num_tokens;
    context.owners.push_back(std::move(block));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<rpc::RankedPart>> MemorySession::Rank(
    const rpc::CallContext& ctx, int32_t limit, const std::vector<int64_t>& exclude,
    bool one_per_document) {
  const Stopwatch watch(timings_.route);
  rpc::RankRequest request;
  request.round = round_;
  request.limit = limit;
  request.exclude = exclude;
  request.one_per_document = one_per_document;
  return memory_.router->Rank(ctx, info_.session_id, request);
}

absl::StatusOr<std::vector<rpc::PartText>> MemorySession::GetParts(
    const rpc::CallContext& ctx, const std::vector<int64_t>& references) {
  if (references.empty()) return std::vector<rpc::PartText>();
  const Stopwatch watch(timings_.fetch);
  return memory_.router->GetParts(ctx, info_.session_id, references);
}

}  // namespace msa::compute_node

// One question's view of memory: opens a session with the router, runs prefills that route in every
// router layer, gathers the selected documents' blocks. Not thread-safe: one question owns it.
// Closes the session when it ends.
#ifndef MSA_COMPUTE_NODE_MEMORY_SESSION_H_
#define MSA_COMPUTE_NODE_MEMORY_SESSION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "compute_node/block_fetcher.h"
#include "compute_node/content_cache.h"
#include "compute_node/dialogue.h"
#include "compute_node/model/transformer.h"
#include "compute_node/pass_sharer.h"
#include "rpc/compute_node.h"
#include "rpc/session_router.h"
#include "rpc/worker_pool.h"

namespace msa::compute_node {

// Where memory is: borrowed for as long as the compute node lives.
struct MemoryAccess {
  rpc::SessionRouter* router = nullptr;
  std::vector<rpc::MemoryShard*> shards;  // in the shard map's order
  std::vector<std::string> shard_names;   // the map's; empty where shards cannot be missed
  ContentCache* cache = nullptr;
  PassSharer* passes = nullptr;
  // Layers asked for at once for a document not in the cache, from the one that selected it on,
  // which alone is waited for.
  int prefetch_layers = 1;
  rpc::WorkerPool* fetchers = nullptr;               // where blocks come in
  absl::Duration fetch_timeout = absl::Seconds(60);  // of one shard's blocks
};

// K,V of `<|im_start|>user\n` alone, every layer: each query attends to it.
class TemplatePrefix {
 public:
  static absl::StatusOr<TemplatePrefix> Make(const Transformer& transformer,
                                             const Tokenizer& tokenizer);
  kernels::KvView View(int layer) const { return cache_->View(layer); }

 private:
  explicit TemplatePrefix(std::shared_ptr<const KvCache> cache) : cache_(std::move(cache)) {}
  std::shared_ptr<const KvCache> cache_;
};

// What decoding goes on from.
struct Prefill {
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<AttentionContext> context;  // null: own tokens only
  int32_t next_position = 0;
  std::vector<float> last_hidden;               // [hidden]
  std::vector<rpc::LayerSelection> selections;  // a router layer each
};

class MemorySession {
 public:
  static absl::StatusOr<std::unique_ptr<MemorySession>> Open(
      const rpc::CallContext& ctx, const Transformer& transformer, const TemplatePrefix& prefix,
      const MemoryAccess& memory, const std::string& bank, const rpc::SessionOptions& options);
  ~MemorySession();
  MemorySession(const MemorySession&) = delete;
  MemorySession& operator=(const MemorySession&) = delete;

  const rpc::SessionInfo& info() const { return info_; }
  const rpc::BankSpec& bank() const { return info_.bank; }

  // Whether the model has positions enough for Route to take it.
  bool Holds(const RoutingPrompt& prompt) const;
  // A new round: routes `prompt` with `top_k` parts a layer. `observer` may be null; it sees the
  // same pass.
  absl::StatusOr<Prefill> Route(const rpc::CallContext& ctx, const RoutingPrompt& prompt,
                                int32_t top_k, ForwardHook* observer);
  // Best parts by mean score of the last round.
  absl::StatusOr<std::vector<rpc::RankedPart>> Rank(const rpc::CallContext& ctx, int32_t limit,
                                                    const std::vector<int64_t>& exclude,
                                                    bool one_per_document);
  absl::StatusOr<std::vector<rpc::PartText>> GetParts(const rpc::CallContext& ctx,
                                                      const std::vector<int64_t>& references);

  int32_t round() const { return round_; }
  // Names of shards that gave no answer, each once; only with allow_partial.
  const std::vector<std::string>& missing_shards() const { return missing_; }
  // Of all layers routed so far, where the session compares scans.
  const std::vector<rpc::ScanComparison>& comparisons() const { return comparisons_; }
  // fetched_bytes: of what has come so far.
  rpc::Usage& usage() {
    usage_.fetched_bytes = fetched_bytes_;
    return usage_;
  }
  rpc::Timings& timings() { return timings_; }

 private:
  class RoutingHook;

  MemorySession(const Transformer& transformer, const TemplatePrefix& prefix,
                const MemoryAccess& memory, rpc::SessionInfo info, bool allow_partial);
  // Views of the selected parts' blocks of one layer, references ascending. Left out: parts deleted
  // meanwhile and, with allow_partial, those of a shard that cannot be reached any more.
  absl::Status Gather(const rpc::CallContext& ctx, int32_t layer,
                      const std::vector<rpc::RoutedPart>& parts, AttentionContext& context);
  // Asks for the parts' blocks of `layer` and of the layers that are fetched with it.
  void StartFetch(const rpc::CallContext& ctx, int32_t layer, int32_t shard,
                  std::vector<int64_t> references);
  // What the shard sends, as it comes. UNAVAILABLE, naming it, when it has not sent all in
  // fetch_timeout. On any thread, as the two below.
  absl::Status Fetch(const rpc::CallContext& ctx, int32_t shard, const rpc::FetchRequest& request,
                     const BlockFetcher::Sink& sink);
  // Verified, and where it is attended to; blocks that nobody reads make room for it, once while
  // `may_drop`.
  absl::StatusOr<BlockFetcher::Block> Keep(const ContentCache::Key& key, rpc::FetchedBlock fetched,
                                           bool& may_drop);
  absl::StatusOr<BlockFetcher::Block> Resident(BlockFetcher::Block block, bool& may_drop);
  // With allow_partial UNAVAILABLE is no error: the shard is missing from then on. That of this
  // node's own device is.
  absl::Status Miss(int32_t shard, const absl::Status& status);
  std::string NameOf(int32_t shard) const;
  void NoteMissing(const std::vector<std::string>& shards);
  ContentCache::Key KeyOf(int32_t shard, int64_t reference, int32_t layer) const;

  const Transformer& transformer_;
  const TemplatePrefix& prefix_;
  const MemoryAccess& memory_;
  rpc::SessionInfo info_;
  const bool allow_partial_;
  int32_t round_ = 0;
  std::vector<std::string> missing_;
  std::vector<rpc::ScanComparison> comparisons_;
  std::set<int32_t> unreachable_;  // shards that gave no blocks, not asked again
  rpc::Usage usage_;
  rpc::Timings timings_;
  std::atomic<int64_t> fetched_bytes_ = 0;
  // Blocks of this session: the cache may drop one before its layer comes. Last: its calls use the
  // rest.
  BlockFetcher fetcher_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MEMORY_SESSION_H_

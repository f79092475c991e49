// A shard that breaks off in the middle of sending blocks.
#ifndef MSA_TESTS_COMPUTE_NODE_BREAKING_SHARD_H_
#define MSA_TESTS_COMPUTE_NODE_BREAKING_SHARD_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "rpc/memory_shard.h"

namespace msa::compute_node {

// `shard`, but that FetchBlocks sends blocks of `layers_sent` of the layers asked for and ends with
// `then` where there are more.
class BreakingShard : public rpc::MemoryShard {
 public:
  using Context = rpc::CallContext;
  using Name = std::string;

  explicit BreakingShard(rpc::MemoryShard& shard) : shard_(shard) {}

  absl::Status FetchBlocks(const Context& ctx, const rpc::FetchRequest& request,
                           const std::function<absl::Status(rpc::FetchedBlock)>& sink) override {
    ++fetches;
    rpc::FetchRequest some = request;
    some.layers.resize(std::min(layers_sent, some.layers.size()));
    const absl::Status status = shard_.FetchBlocks(ctx, some, sink);
    return status.ok() && some.layers.size() < request.layers.size() ? then(ctx) : status;
  }

  absl::Status CreateBank(const Context& ctx, const rpc::BankSpec& spec) override {
    return shard_.CreateBank(ctx, spec);
  }
  absl::Status DeleteBank(const Context& ctx, const Name& bank) override {
    return shard_.DeleteBank(ctx, bank);
  }
  absl::Status DeleteUnusedBank(const Context& ctx, const Name& bank, uint64_t uid) override {
    return shard_.DeleteUnusedBank(ctx, bank, uid);
  }
  absl::StatusOr<std::vector<rpc::BankState>> ListBanks(const Context& ctx) override {
    return shard_.ListBanks(ctx);
  }
  absl::Status SetCoarse(const Context& ctx, const Name& bank,
                         const rpc::CoarseState& state) override {
    return shard_.SetCoarse(ctx, bank, state);
  }
  absl::StatusOr<int64_t> TakeReferences(const Context& ctx, const Name& bank, uint64_t uid,
                                         int64_t at_least, int64_t count) override {
    return shard_.TakeReferences(ctx, bank, uid, at_least, count);
  }
  absl::StatusOr<rpc::PutResult> PutDocument(const Context& ctx,
                                             const rpc::EncodedDocument& document) override {
    return shard_.PutDocument(ctx, document);
  }
  absl::StatusOr<uint64_t> DeleteDocument(const Context& ctx, const Name& bank,
                                          const std::string& id) override {
    return shard_.DeleteDocument(ctx, bank, id);
  }
  absl::StatusOr<rpc::StoredDocument> GetDocument(const Context& ctx, const Name& bank,
                                                  const std::string& id) override {
    return shard_.GetDocument(ctx, bank, id);
  }
  absl::StatusOr<std::vector<rpc::DocumentInfo>> ListDocuments(const Context& ctx, const Name& bank,
                                                               const std::string& after,
                                                               int32_t limit) override {
    return shard_.ListDocuments(ctx, bank, after, limit);
  }
  absl::StatusOr<std::vector<rpc::PartText>> GetParts(
      const Context& ctx, const Name& bank, uint64_t snapshot,
      absl::Span<const int64_t> references) override {
    return shard_.GetParts(ctx, bank, snapshot, references);
  }
  absl::StatusOr<rpc::Snapshot> OpenSnapshot(const Context& ctx, const Name& bank,
                                             absl::Duration ttl) override {
    return shard_.OpenSnapshot(ctx, bank, ttl);
  }
  absl::Status CloseSnapshot(const Context& ctx, uint64_t snapshot) override {
    return shard_.CloseSnapshot(ctx, snapshot);
  }
  absl::StatusOr<std::vector<rpc::RoutedPart>> Route(const Context& ctx,
                                                     const rpc::RouteRequest& request) override {
    return shard_.Route(ctx, request);
  }
  absl::StatusOr<std::vector<rpc::RankedPart>> Rank(const Context& ctx,
                                                    const rpc::RankRequest& request) override {
    return shard_.Rank(ctx, request);
  }
  absl::StatusOr<rpc::ShardStats> Stats(const Context& ctx, const Name& bank) override {
    return shard_.Stats(ctx, bank);
  }

  size_t layers_sent = SIZE_MAX;
  std::function<absl::Status(const Context&)> then;
  std::atomic<int> fetches = 0;

 private:
  rpc::MemoryShard& shard_;
};

}  // namespace msa::compute_node

#endif  // MSA_TESTS_COMPUTE_NODE_BREAKING_SHARD_H_

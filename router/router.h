// The router: clients call it as a MemoryService, compute nodes as a SessionRouter. It owns no
// data: documents live on the shards, models on the compute nodes.
#ifndef MSA_ROUTER_ROUTER_H_
#define MSA_ROUTER_ROUTER_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "router/banks.h"
#include "router/compute_pool.h"
#include "router/ingest.h"
#include "router/observer.h"
#include "router/sessions.h"
#include "router/shard_group.h"
#include "rpc/compute_node.h"
#include "rpc/memory_service.h"
#include "rpc/memory_shard.h"
#include "rpc/session_router.h"
#include "rpc/shard_map.h"
#include "rpc/worker_pool.h"

namespace msa::router {

struct RouterOptions {
  absl::Duration shard_timeout = absl::Seconds(30);  // of one shard's answer
  absl::Duration session_ttl = absl::Minutes(10);    // after its last use
  int max_sessions = 1024;
  int fan_out_threads = 64;  // of all calls; a call that finds none free asks its shards in turn
  // Documents encoded at once, over all compute nodes and streams: so many whatever their size, and
  // more while they are short. Several nodes, GPUs: ForNodes.
  int encode_threads = 4;
  int encode_threads_if_short = 4;
  size_t encode_short_bytes = 1 << 20;  // of text, all that are encoded together
  int encode_window = 8;                // documents of one stream in work or waiting to be reported
  std::function<absl::Time()> clock = absl::Now;  // of session expiry
  Observer* observer = nullptr;  // borrowed for the router's life; null: nobody counts

  // For so many compute nodes, each of which encodes `at_once` documents while they are short.
  static RouterOptions ForNodes(int compute_nodes, int at_once);
  // At once where each has a device: a pass over documents takes 8,192 tokens there, 50 passages of
  // an encyclopedia. Three passes' documents are in work: in one of them, waiting for the next,
  // being stored.
  static constexpr int kAtOnceOnADevice = 160;
};

// Thread-safe. Embedded use (one local shard, one local compute node) adds no thread hop to
// routing.
class Router final : public rpc::MemoryService, public rpc::SessionRouter {
 public:
  // `shards`: one an entry of map.shards; `compute_nodes`: one an entry of map.compute_nodes. All
  // borrowed. Compute nodes that need the router first can be added later.
  Router(const rpc::ShardMap& map, std::vector<rpc::MemoryShard*> shards,
         const std::vector<rpc::ComputeNode*>& compute_nodes, RouterOptions options = {});

  void AddComputeNode(const std::string& name, rpc::ComputeNode* node);
  // Completes banks that a crash left on some shards only. To be called once at start; a bank is
  // completed on use, too. UNAVAILABLE when a shard is not up yet: serving may begin all the same.
  absl::Status Repair(const rpc::CallContext& ctx);

  // rpc::MemoryService
  absl::StatusOr<rpc::ModelInfo> GetModel(const rpc::CallContext& ctx) override;
  absl::StatusOr<rpc::BankSpec> CreateBank(const rpc::CallContext& ctx, const std::string& name,
                                           const rpc::BankOptions& options) override;
  absl::Status DeleteBank(const rpc::CallContext& ctx, const std::string& name) override;
  absl::StatusOr<std::vector<rpc::BankSpec>> ListBanks(const rpc::CallContext& ctx) override;
  absl::StatusOr<rpc::CoarseState> SetCoarse(const rpc::CallContext& ctx, const std::string& name,
                                             const rpc::CoarseState& state) override;
  absl::Status AddDocuments(const rpc::CallContext& ctx, const std::string& bank,
                            const std::function<std::optional<rpc::NewDocument>()>& next,
                            const std::function<bool(const rpc::AddResult&)>& done) override;
  absl::StatusOr<std::vector<rpc::DeleteResult>> DeleteDocuments(
      const rpc::CallContext& ctx, const std::string& bank,
      const std::vector<std::string>& ids) override;
  absl::StatusOr<rpc::StoredDocument> GetDocument(const rpc::CallContext& ctx,
                                                  const std::string& bank,
                                                  const std::string& id) override;
  absl::StatusOr<rpc::DocumentPage> ListDocuments(const rpc::CallContext& ctx,
                                                  const std::string& bank, int32_t page_size,
                                                  const std::string& page_token) override;
  absl::StatusOr<rpc::RetrieveReply> Retrieve(const rpc::CallContext& ctx,
                                              const rpc::RetrieveRequest& request) override;
  absl::Status Generate(const rpc::CallContext& ctx, const rpc::GenerateRequest& request,
                        const rpc::EventSink& sink) override;
  absl::StatusOr<rpc::BankStats> Stats(const rpc::CallContext& ctx,
                                       const std::string& bank) override;

  // rpc::SessionRouter
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
  // Deletes results[i].id for every i of `which`, which all live on `shard`, and fills these in.
  void DeleteOnShard(const rpc::CallContext& ctx, const std::string& bank, int shard,
                     absl::Span<const size_t> which, std::vector<rpc::DeleteResult>& results);
  // Asks the shards of a session that are not missing. Under allow_partial one that cannot be
  // reached becomes missing; any other error is returned.
  absl::Status AskSession(const rpc::CallContext& ctx, Session* session,
                          const ShardGroup::Call& call);
  std::vector<std::string> MissingNames(Session* session) const;
  // Snapshots, and what the shards that answered say of the bank.
  absl::Status OpenSnapshots(const rpc::CallContext& ctx, const std::string& bank, Session* session,
                             int64_t* num_parts, std::vector<rpc::BankState>* states);
  // The best of all shards; names the snapshots in `request` itself.
  absl::StatusOr<std::vector<rpc::RoutedPart>> RouteAll(const rpc::CallContext& ctx,
                                                        Session* session,
                                                        rpc::RouteRequest& request);
  // Coarse scans beside the exact one that found `exact` in `exact_ms`.
  absl::StatusOr<std::vector<rpc::ScanComparison>> Compare(
      const rpc::CallContext& ctx, Session* session, rpc::RouteRequest request,
      const std::vector<rpc::RoutedPart>& exact, double exact_ms);
  void CloseSnapshots(const rpc::CallContext& ctx, const Session& session);

  ShardGroup shards_;
  ComputePool compute_;
  Banks banks_;
  References references_{&shards_};
  Sessions sessions_;
  const int encode_window_;
  Observer* const observer_;
  EncodeBudget encode_budget_;
  rpc::WorkerPool encoders_;
};

}  // namespace msa::router

#endif  // MSA_ROUTER_ROUTER_H_

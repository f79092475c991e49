// A router over in-memory shards and fake compute nodes, called directly.
#ifndef MSA_TESTS_ROUTER_FAKE_CLUSTER_H_
#define MSA_TESTS_ROUTER_FAKE_CLUSTER_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "router/router.h"
#include "rpc/shard_map.h"
#include "tests/support/fake_compute_node.h"
#include "tests/support/fake_shard.h"

namespace msa::router {

// Adds `documents` to `bank`, each after `before` of its place; the results in the order reported.
inline std::vector<rpc::AddResult> AddTo(
    Router& router, const rpc::CallContext& context, const std::vector<rpc::NewDocument>& documents,
    const std::string& bank = "default", absl::Status* stream = nullptr,
    const std::function<void(size_t)>& before = [](size_t) {}) {
  size_t at = 0;
  std::vector<rpc::AddResult> results;
  const absl::Status status = router.AddDocuments(
      context, bank,
      [&]() -> std::optional<rpc::NewDocument> {
        if (at == documents.size()) return std::nullopt;
        before(at);
        return documents[at++];
      },
      [&](const rpc::AddResult& result) {
        results.push_back(result);
        return true;
      });
  if (stream != nullptr) *stream = status;
  return results;
}

struct FakeCluster {
  explicit FakeCluster(int num_shards, int num_nodes = 1, RouterOptions options = {})
      : shards(num_shards) {
    for (int i = 0; i < num_shards; ++i) {
      map.shards.push_back({absl::StrCat("s", i), absl::StrCat("host:", i + 1)});
      pointers.push_back(&shards[i]);
    }
    std::vector<rpc::ComputeNode*> borrowed;
    for (int i = 0; i < num_nodes; ++i) {
      map.compute_nodes.push_back({absl::StrCat("c", i), absl::StrCat("node:", i + 1)});
      nodes.push_back(std::make_unique<testing::FakeComputeNode>(pointers));
      borrowed.push_back(nodes.back().get());
    }
    router = std::make_unique<Router>(map, pointers, borrowed, options);
    for (auto& node : nodes) node->router = router.get();
  }

  std::vector<rpc::AddResult> Add(const std::vector<rpc::NewDocument>& documents,
                                  const std::string& bank = "default",
                                  absl::Status* stream = nullptr) {
    return AddTo(*router, ctx, documents, bank, stream);
  }

  rpc::CallContext ctx;
  std::vector<testing::FakeShard> shards;
  std::vector<rpc::MemoryShard*> pointers;
  rpc::ShardMap map;
  std::vector<std::unique_ptr<testing::FakeComputeNode>> nodes;
  std::unique_ptr<Router> router;
};

inline std::vector<rpc::NewDocument> SomeDocuments(int count) {
  std::vector<rpc::NewDocument> documents;
  for (int i = 0; i < count; ++i) {
    rpc::NewDocument document;
    document.id = absl::StrCat("doc-", i);
    document.title = i % 3 == 0 ? absl::StrCat("title ", i) : "";
    for (int word = 0; word < 5 + i % 40; ++word) {
      absl::StrAppend(&document.text, "word", (i * 7 + word * 13) % 31, " ");
    }
    documents.push_back(std::move(document));
  }
  return documents;
}

}  // namespace msa::router

#endif  // MSA_TESTS_ROUTER_FAKE_CLUSTER_H_

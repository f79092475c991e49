// Which shard a document lives on, and where shards, compute nodes and the router are. A static
// file:
//   {"version": 1, "slots": 1024,
//    "shards": [{"name": "a", "address": "10.0.0.1:7071"}, …],
//    "compute_nodes": [{"name": "c0", "address": "10.0.0.9:7072"}, …],
//    "router": "10.0.0.8:7070"}
// A document's slot is XXH3-64 (seed 0) of its id modulo `slots`. Shard i of n, in the file's
// order, has the slots from ⌈i·slots/n⌉ up to and without ⌈(i+1)·slots/n⌉. Changing the number or
// the order of shards of a filled store loses documents from view: move them first.
#ifndef MSA_RPC_SHARD_MAP_H_
#define MSA_RPC_SHARD_MAP_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace msa::rpc {

struct Endpoint {
  std::string name;     // unique in its list; what errors call it
  std::string address;  // host:port; empty only in the embedded map
  bool operator==(const Endpoint&) const = default;
};

// Where a shard stands in its map, which decides what documents it has.
struct ShardPlace {
  int32_t shard = 0;  // index; a process by itself is shard 0 of 1
  int32_t shards = 1;
  int32_t slots = 1024;
  // One shard has every document, however many slots there are.
  bool operator==(const ShardPlace& other) const;
};
// "shard 2 of 3 over 1024 slots"
std::string ToString(const ShardPlace& place);

// Immutable once made, so thread-safe.
struct ShardMap {
  int32_t slots = 1024;
  std::vector<Endpoint> shards;  // at least one, at most `slots`
  std::vector<Endpoint> compute_nodes;
  std::string router;  // address; empty: none

  // One shard "local" in this process.
  static ShardMap Embedded();
  // INVALID_ARGUMENT naming the field and what it should be.
  static absl::StatusOr<ShardMap> Parse(std::string_view json);
  // Parse of a file; NOT_FOUND for one that cannot be opened, INVALID_ARGUMENT for one that cannot
  // be read (a folder). Errors name the file.
  static absl::StatusOr<ShardMap> Load(const std::string& path);

  int32_t SlotOf(std::string_view document_id) const;
  // Index in `shards`.
  int32_t ShardOf(std::string_view document_id) const;
  // Index in `shards`; NOT_FOUND listing the names there are.
  absl::StatusOr<int32_t> FindShard(std::string_view name) const;
  ShardPlace PlaceOf(int32_t shard) const;
  // Index in `compute_nodes`; NOT_FOUND listing the names there are.
  absl::StatusOr<int32_t> FindComputeNode(std::string_view name) const;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_SHARD_MAP_H_

// The map of a cluster. What is read is written as JSON and read the same, and every document has
// a shard.
#include "rpc/shard_map.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/check.h"
#include "tests/fuzz/target.h"

namespace msa::rpc {
namespace {

using Json = nlohmann::json;

Json Listed(const std::vector<Endpoint>& endpoints) {
  Json list = Json::array();
  for (const Endpoint& endpoint : endpoints) {
    list.push_back({{"name", endpoint.name}, {"address", endpoint.address}});
  }
  return list;
}

void Try(std::string_view bytes) {
  const auto map = ShardMap::Parse(bytes);
  if (!map.ok()) return fuzz::CheckRefusal(map.status());
  const auto num_shards = static_cast<int32_t>(map->shards.size());
  MSA_CHECK(num_shards >= 1 && num_shards <= map->slots);
  for (const char* id : {"", "a", "b", "another document"}) {
    const int32_t shard = map->ShardOf(id);
    MSA_CHECK(shard >= 0 && shard < num_shards);
  }
  for (int32_t i = 0; i < num_shards; ++i) MSA_CHECK(*map->FindShard(map->shards[i].name) == i);
  Json json = {{"version", 1},
               {"slots", map->slots},
               {"shards", Listed(map->shards)},
               {"compute_nodes", Listed(map->compute_nodes)}};
  if (!map->router.empty()) json["router"] = map->router;
  const auto again = ShardMap::Parse(json.dump());
  MSA_CHECK(again.ok() && again->slots == map->slots && again->shards == map->shards);
  MSA_CHECK(again->compute_nodes == map->compute_nodes && again->router == map->router);
}

}  // namespace
}  // namespace msa::rpc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  msa::rpc::Try(msa::fuzz::View(data, size));
  return 0;
}

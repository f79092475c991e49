#include "rpc/shard_map.h"

#include <xxhash.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/status/status.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "rpc/address.h"

namespace msa::rpc {
namespace {

using Json = nlohmann::json;

constexpr int32_t kMaxSlots = 1 << 16;
constexpr size_t kMaxFileBytes = 16u << 20;

absl::Status Invalid(const std::string& what) {
  return absl::InvalidArgumentError(StrCat("shard map: ", what));
}

absl::StatusOr<std::string> StringField(const Json& object, const std::string& where,
                                        const char* field) {
  const auto found = object.find(field);
  if (found == object.end() || !found->is_string() || found->get<std::string>().empty()) {
    return Invalid(StrCat(where, " has no \"", field, "\": a non-empty string"));
  }
  return found->get<std::string>();
}

absl::StatusOr<std::vector<Endpoint>> Endpoints(const Json& map, const char* field) {
  std::vector<Endpoint> endpoints;
  const auto list = map.find(field);
  if (list == map.end()) return endpoints;
  if (!list->is_array()) return Invalid(StrCat("\"", field, "\" is not a list"));
  std::set<std::string> names, addresses;
  for (const Json& item : *list) {
    const std::string where = StrCat(field, "[", endpoints.size(), "]");
    if (!item.is_object()) return Invalid(StrCat(where, " is not an object"));
    Endpoint endpoint;
    MSA_ASSIGN_OR_RETURN(endpoint.name, StringField(item, where, "name"));
    MSA_ASSIGN_OR_RETURN(endpoint.address, StringField(item, where, "address"));
    MSA_RETURN_IF_ERROR(CheckAddress(StrCat("shard map: ", where, ".address"), endpoint.address));
    if (!names.insert(endpoint.name).second) {
      return Invalid(StrCat(where, ": the name '", endpoint.name, "' is used twice"));
    }
    if (!addresses.insert(endpoint.address).second) {
      return Invalid(StrCat(where, ": the address '", endpoint.address, "' is used twice"));
    }
    endpoints.push_back(std::move(endpoint));
  }
  return endpoints;
}

absl::StatusOr<int32_t> Find(const std::vector<Endpoint>& endpoints, const char* what,
                             std::string_view name) {
  std::string names;
  for (size_t i = 0; i < endpoints.size(); ++i) {
    if (endpoints[i].name == name) return static_cast<int32_t>(i);
    names += (i > 0 ? ", " : "") + endpoints[i].name;
  }
  return absl::NotFoundError(StrCat("the shard map has no ", what, " '", name,
                                    "'; it has: ", names.empty() ? std::string("none") : names));
}

absl::Status CheckFields(const Json& map) {
  static const std::set<std::string> known = {"version", "slots", "shards", "compute_nodes",
                                              "router"};
  for (const auto& [field, value] : map.items()) {
    if (known.count(field) == 0) return Invalid(StrCat("unknown field \"", field, "\""));
  }
  const auto version = map.find("version");
  if (version == map.end() || *version != 1) {
    return Invalid("\"version\" must be 1, the only one this program knows");
  }
  return absl::OkStatus();
}

}  // namespace

bool ShardPlace::operator==(const ShardPlace& other) const {
  return shard == other.shard && shards == other.shards && (shards == 1 || slots == other.slots);
}

std::string ToString(const ShardPlace& place) {
  return StrCat("shard ", int64_t{place.shard} + 1, " of ", place.shards, " over ", place.slots,
                " slots");
}

ShardMap ShardMap::Embedded() {
  ShardMap map;
  map.shards.push_back({"local", ""});
  map.compute_nodes.push_back({"local", ""});
  return map;
}

absl::StatusOr<ShardMap> ShardMap::Parse(std::string_view json) {
  const Json parsed = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return Invalid("not a JSON object");
  MSA_RETURN_IF_ERROR(CheckFields(parsed));
  ShardMap map;
  if (const auto slots = parsed.find("slots"); slots != parsed.end()) {
    if (!slots->is_number_integer() || *slots < 1 || *slots > kMaxSlots) {
      return Invalid(StrCat("\"slots\" must be a whole number from 1 to ", kMaxSlots));
    }
    map.slots = slots->get<int32_t>();
  }
  MSA_ASSIGN_OR_RETURN(map.shards, Endpoints(parsed, "shards"));
  MSA_ASSIGN_OR_RETURN(map.compute_nodes, Endpoints(parsed, "compute_nodes"));
  if (map.shards.empty()) return Invalid("\"shards\" must list at least one shard");
  if (map.shards.size() > static_cast<size_t>(map.slots)) {
    return Invalid(StrCat(map.shards.size(), " shards but only ", map.slots, " slots"));
  }
  if (parsed.contains("router")) {
    MSA_ASSIGN_OR_RETURN(map.router, StringField(parsed, "the map", "router"));
    MSA_RETURN_IF_ERROR(CheckAddress("shard map: router", map.router));
  }
  return map;
}

absl::StatusOr<ShardMap> ShardMap::Load(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        StrCat("the shard map: ", std::string(text.status().message())));
  }
  absl::StatusOr<ShardMap> map = Parse(*text);
  if (map.ok()) return map;
  return absl::Status(map.status().code(), StrCat(path, ": ", std::string(map.status().message())));
}

int32_t ShardMap::SlotOf(std::string_view document_id) const {
  return static_cast<int32_t>(XXH3_64bits(document_id.data(), document_id.size()) %
                              static_cast<uint64_t>(slots));
}

int32_t ShardMap::ShardOf(std::string_view document_id) const {
  // The i with ⌈i·slots/n⌉ ≤ slot < ⌈(i+1)·slots/n⌉.
  return static_cast<int32_t>(int64_t{SlotOf(document_id)} * static_cast<int64_t>(shards.size()) /
                              slots);
}

absl::StatusOr<int32_t> ShardMap::FindShard(std::string_view name) const {
  return Find(shards, "shard", name);
}

ShardPlace ShardMap::PlaceOf(int32_t shard) const {
  return {shard, static_cast<int32_t>(shards.size()), slots};
}

absl::StatusOr<int32_t> ShardMap::FindComputeNode(std::string_view name) const {
  return Find(compute_nodes, "compute node", name);
}

}  // namespace msa::rpc

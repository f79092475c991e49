#include "cli/data_place.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>

#include "cli/json.h"
#include "common/log.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

// nullopt: none, or none that can be read.
std::optional<rpc::ShardPlace> ReadPlace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::string text;
  std::getline(file, text, '\0');  // all of it; does not throw where the disk fails
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto number = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_number_integer();
  };
  if (!number("shard") || !number("shards") || !number("slots")) {
    Log(LogLevel::kWarning, "the folder's place in the cluster cannot be read; taken from the map",
        {{"file", path}});
    return std::nullopt;
  }
  return rpc::ShardPlace{json["shard"], json["shards"], json["slots"]};
}

// A folder that cannot take it (a full disk) is served all the same.
void WritePlace(const std::string& path, const rpc::ShardPlace& place) {
  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary);
  file << Dump({{"shard", place.shard}, {"shards", place.shards}, {"slots", place.slots}}) << "\n";
  file.close();
  if (file && std::rename(partial.c_str(), path.c_str()) == 0) return;
  std::error_code ignored;
  std::filesystem::remove(partial, ignored);
  Log(LogLevel::kWarning, "the folder's place in the cluster could not be written",
      {{"file", path}});
}

}  // namespace

absl::Status ClaimPlace(const std::string& folder, const rpc::ShardPlace& place, bool filled) {
  const std::string path = folder + "/place.json";
  const std::optional<rpc::ShardPlace> found = ReadPlace(path);
  if (found && *found == place) return absl::OkStatus();
  if (found && filled) {
    return absl::FailedPreconditionError(StrCat(
        folder, " was filled as ", ToString(*found), ", and is started as ", ToString(place),
        ": its documents would be looked for elsewhere. Give the shard map its former order, "
        "number and slots, or add the documents again to empty folders"));
  }
  WritePlace(path, place);
  return absl::OkStatus();
}

}  // namespace msa::cli

#include "cli/data_place.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>

#include "cli/json.h"
#include "common/file.h"
#include "common/log.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

constexpr size_t kMaxFileBytes = 4096;

// nullopt: there is none. DATA_LOSS: none that can be read.
absl::StatusOr<std::optional<rpc::ShardPlace>> ReadPlace(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  if (absl::IsNotFound(text.status())) return std::nullopt;
  if (!text.ok()) return absl::DataLossError(std::string(text.status().message()));
  const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  const auto number = [&](const char* key) {
    return json.is_object() && json.contains(key) && json[key].is_number_integer();
  };
  if (!number("shard") || !number("shards") || !number("slots")) {
    return absl::DataLossError(StrCat(path, " is damaged"));
  }
  return rpc::ShardPlace{json["shard"], json["shards"], json["slots"]};
}

// A folder that cannot take it (a full disk) is served all the same.
void WritePlace(const std::string& path, const rpc::ShardPlace& place) {
  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary);
  file << Dump({{"shard", place.shard}, {"shards", place.shards}, {"slots", place.slots}}) << "\n";
  file.close();
  // On the disk before it has its name: a power cut leaves the whole file or none.
  const int descriptor = open(partial.c_str(), O_RDONLY | O_CLOEXEC);
  const bool durable = descriptor >= 0 && fsync(descriptor) == 0;
  if (descriptor >= 0) close(descriptor);
  if (file && durable && std::rename(partial.c_str(), path.c_str()) == 0) return;
  std::error_code ignored;
  std::filesystem::remove(partial, ignored);
  Log(LogLevel::kWarning, "the folder's place in the cluster could not be written",
      {{"file", path}});
}

}  // namespace

absl::Status ClaimPlace(const std::string& folder, const rpc::ShardPlace& place, bool filled) {
  const std::string path = StrCat(folder, "/", kPlaceFile);
  const auto read = ReadPlace(path);
  if (!read.ok() && filled) {
    return absl::FailedPreconditionError(StrCat(
        read.status().message(), ", and ", folder,
        " holds documents: which shard of how many they belong to is not known. If the shard "
        "map has always had this folder as ",
        ToString(place), ", remove that file and start again"));
  }
  const std::optional<rpc::ShardPlace> found = read.value_or(std::nullopt);
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

#include "auth/key_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"

namespace msa::auth {
namespace {

using Json = nlohmann::json;

absl::Status Invalid(const std::string& what) { return absl::InvalidArgumentError(what); }

// nlohmann keeps the last of fields that are given twice; here that is a fault.
struct Parsed {
  Json json;
  std::string repeated;  // a field that was given twice; empty: none
};
Parsed Parse(std::string_view text) {
  Parsed parsed;
  std::vector<std::set<std::string>> objects;
  const auto note = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) objects.emplace_back();
    if (event == Json::parse_event_t::object_end) objects.pop_back();
    if (event == Json::parse_event_t::key && !objects.back().insert(value).second) {
      parsed.repeated = value;
    }
    return true;
  };
  parsed.json = Json::parse(text, note, /*allow_exceptions=*/false);
  return parsed;
}

// Exactly these, all of them.
absl::Status CheckFields(const Json& object, const std::string& where,
                         const std::set<std::string>& fields) {
  if (!object.is_object()) return Invalid(StrCat(where, " is not an object"));
  for (const auto& [field, value] : object.items()) {
    if (fields.count(field) == 0) return Invalid(StrCat(where, ": unknown field \"", field, "\""));
  }
  for (const std::string& field : fields) {
    if (!object.contains(field)) return Invalid(StrCat(where, " has no \"", field, "\""));
  }
  return absl::OkStatus();
}

// One of 1 to `limit` bytes without control characters.
absl::StatusOr<std::string> Name(const Json& value, const std::string& where, size_t limit) {
  const std::string name = value.is_string() ? value.get<std::string>() : "";
  const bool plain = std::none_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
  });
  if (!name.empty() && name.size() <= limit && plain && IsUtf8(name)) return name;
  return Invalid(
      StrCat(where, " must be UTF-8 of 1 to ", limit, " bytes without control characters"));
}

absl::StatusOr<std::vector<Grant>> Grants(const Json& list, const std::string& where) {
  if (!list.is_array() || list.empty() || list.size() > kMaxGrants) {
    return Invalid(StrCat(where, " must be a list of 1 to ", kMaxGrants,
                          " rights, such as {\"bank\": \"*\", \"right\": \"read\"}"));
  }
  std::vector<Grant> grants;
  std::set<std::string> banks;
  for (const Json& item : list) {
    const std::string at = StrCat(where, "[", grants.size(), "]");
    MSA_RETURN_IF_ERROR(CheckFields(item, at, {"bank", "right"}));
    Grant grant;
    MSA_ASSIGN_OR_RETURN(grant.bank, Name(item["bank"], StrCat(at, ".bank"), kMaxBankNameBytes));
    if (!banks.insert(grant.bank).second) {
      return Invalid(StrCat(at, ": bank '", grant.bank, "' comes twice: keep the higher right"));
    }
    const auto right =
        ParseRight(item["right"].is_string() ? item["right"].get<std::string>() : "");
    if (!right.ok()) return Invalid(StrCat(at, ": ", std::string(right.status().message())));
    grant.right = *right;
    grants.push_back(std::move(grant));
  }
  return grants;
}

absl::StatusOr<ApiKey> Key(const Json& item, const std::string& where) {
  MSA_RETURN_IF_ERROR(CheckFields(item, where, {"name", "sha256", "rights"}));
  ApiKey key;
  MSA_ASSIGN_OR_RETURN(key.name, Name(item["name"], StrCat(where, ".name"), kMaxBankNameBytes));
  const std::string hex = item["sha256"].is_string() ? item["sha256"].get<std::string>() : "";
  if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return Invalid(StrCat(where, ".sha256 must be 64 hexadecimal digits, the SHA-256 of the key"));
  }
  key.sha256 = absl::HexStringToBytes(hex);
  MSA_ASSIGN_OR_RETURN(key.grants, Grants(item["rights"], StrCat(where, ".rights")));
  return key;
}

// Closes what it holds.
struct File {
  int fd;
  ~File() {
    if (fd >= 0) close(fd);
  }
};

std::string Why() { return std::strerror(errno); }

// JSON can hold its names.
bool IsText(const ApiKey& key) {
  return IsUtf8(key.name) && std::all_of(key.grants.begin(), key.grants.end(),
                                         [](const Grant& grant) { return IsUtf8(grant.bank); });
}

absl::Status CannotWrite(const std::string& path) {
  return absl::PermissionDeniedError(StrCat("cannot write ", path, ": ", Why()));
}

// Whole or not at all: under another name first, then in its place.
absl::Status WriteText(const std::string& path, int folder, const std::string& text) {
  struct stat before = {};
  const bool exists = stat(path.c_str(), &before) == 0;
  const std::string partial = path + ".partial";
  const auto fail = [&] {
    const absl::Status status = CannotWrite(path);
    unlink(partial.c_str());
    return status;
  };
  unlink(partial.c_str());
  const File file{open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
  if (file.fd < 0) return CannotWrite(path);
  if (exists && (fchown(file.fd, before.st_uid, before.st_gid) != 0 ||
                 fchmod(file.fd, before.st_mode & 07777) != 0)) {
    return fail();
  }
  for (size_t at = 0; at < text.size();) {
    const ssize_t written = write(file.fd, &text[at], text.size() - at);
    if (written <= 0) return fail();
    at += static_cast<size_t>(written);
  }
  if (fsync(file.fd) != 0 || std::rename(partial.c_str(), path.c_str()) != 0) return fail();
  return fsync(folder) == 0 ? absl::OkStatus() : CannotWrite(path);
}

}  // namespace

absl::StatusOr<std::vector<ApiKey>> ParseKeys(std::string_view json) {
  const Parsed parsed = Parse(json);
  if (!parsed.json.is_object()) return Invalid("not a JSON object");
  if (!parsed.repeated.empty()) {
    return Invalid(StrCat("an object has field \"", parsed.repeated, "\" twice"));
  }
  MSA_RETURN_IF_ERROR(CheckFields(parsed.json, "the file", {"version", "keys"}));
  if (parsed.json["version"] != 1) {
    return Invalid("\"version\" must be 1, the only one this program knows");
  }
  const Json& list = parsed.json["keys"];
  if (!list.is_array() || list.size() > kMaxApiKeys) {
    return Invalid(StrCat("\"keys\" must be a list of ", kMaxApiKeys, " keys at most"));
  }
  std::vector<ApiKey> keys;
  std::set<std::string> names, hashes;
  for (const Json& item : list) {
    const std::string where = StrCat("keys[", keys.size(), "]");
    MSA_ASSIGN_OR_RETURN(ApiKey key, Key(item, where));
    if (!names.insert(key.name).second) {
      return Invalid(StrCat(where, ": the name '", key.name, "' is used twice"));
    }
    if (!hashes.insert(key.sha256).second) {
      return Invalid(StrCat(where, ": the sha256 of '", key.name, "' is another key's, too"));
    }
    keys.push_back(std::move(key));
  }
  return keys;
}

std::string FormatKeys(const std::vector<ApiKey>& keys) {
  nlohmann::ordered_json file = {{"version", 1}, {"keys", nlohmann::ordered_json::array()}};
  for (const ApiKey& key : keys) {
    auto rights = nlohmann::ordered_json::array();
    for (const Grant& grant : key.grants) {
      rights.push_back({{"bank", grant.bank}, {"right", RightName(grant.right)}});
    }
    file["keys"].push_back({{"name", key.name},
                            {"sha256", absl::BytesToHexString(key.sha256)},
                            {"rights", std::move(rights)}});
  }
  return file.dump(1) + "\n";
}

absl::StatusOr<std::string> ReadKeyText(const std::string& path) {
  const File file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0 && errno == ENOENT) {
    return absl::NotFoundError(
        StrCat(path, ": there is no such file; msa key create makes it with its first key"));
  }
  struct stat info = {};
  if (file.fd < 0 || fstat(file.fd, &info) != 0) {
    return absl::FailedPreconditionError(StrCat("cannot read ", path, ": ", Why()));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(StrCat(path, " is no file of API keys: name the file"));
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::FailedPreconditionError(
        StrCat(path, ": others than its owner may write it, and so let themselves in: chmod go-w"));
  }
  auto text = ReadOpenFile(file.fd, path, kMaxKeyFileBytes);
  if (absl::IsResourceExhausted(text.status())) {
    return Invalid(StrCat(path, ": a file of API keys has ", kMaxKeyFileBytes, " bytes at most"));
  }
  if (!text.ok()) return absl::FailedPreconditionError(std::string(text.status().message()));
  return text;
}

absl::StatusOr<std::vector<ApiKey>> KeysIn(const std::string& path, std::string_view text) {
  absl::StatusOr<std::vector<ApiKey>> keys = ParseKeys(text);
  if (keys.ok()) return keys;
  return absl::Status(keys.status().code(),
                      StrCat(path, ": ", std::string(keys.status().message())));
}

absl::StatusOr<std::vector<ApiKey>> ReadKeys(const std::string& path) {
  MSA_ASSIGN_OR_RETURN(const std::string text, ReadKeyText(path));
  return KeysIn(path, text);
}

absl::Status ChangeKeys(const std::string& path,
                        const std::function<absl::Status(std::vector<ApiKey>*)>& change) {
  std::error_code none;
  const std::filesystem::path whole = std::filesystem::weakly_canonical(path, none);
  const std::string real = none ? path : whole.string();  // not the link to it
  const std::string parent = std::filesystem::absolute(real).parent_path().string();
  // Its lock is the file's: the file itself is another after every change.
  const File folder{open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.fd < 0 || flock(folder.fd, LOCK_EX) != 0) return CannotWrite(path);
  absl::StatusOr<std::vector<ApiKey>> keys = ReadKeys(real);
  if (absl::IsNotFound(keys.status())) keys = std::vector<ApiKey>();
  MSA_RETURN_IF_ERROR(keys.status());
  MSA_RETURN_IF_ERROR(change(&*keys));
  if (!std::all_of(keys->begin(), keys->end(), IsText)) {
    return Invalid("names of keys and banks must be UTF-8");
  }
  const std::string text = FormatKeys(*keys);
  MSA_RETURN_IF_ERROR(ParseKeys(text).status());  // what could not be read again is not written
  return WriteText(real, folder.fd, text);
}

}  // namespace msa::auth

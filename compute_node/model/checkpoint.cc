#include "compute_node/model/checkpoint.h"

#include <xxhash.h>

#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/model/weights.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {

absl::Status Checkpoint::AddFile(const std::string& path) {
  MSA_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open(path));
  for (const auto& [name, view] : file->tensors()) tensors_.emplace(name, &view);
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::AddFolder(const std::string& dir) {
  const std::string index = dir + "/model.safetensors.index.json";
  if (!std::filesystem::exists(index)) return AddFile(dir + "/model.safetensors");
  MSA_ASSIGN_OR_RETURN(const std::string text, ReadFile(index, kMaxModelJsonBytes));
  const nlohmann::json root = nlohmann::json::parse(text, nullptr, false);
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object()) {
    return absl::InvalidArgumentError(StrCat(index, ": no object 'weight_map'"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : root["weight_map"].items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
      return absl::InvalidArgumentError(StrCat(index, ": tensor ", tensor, " names no file"));
    }
    names.insert(file.get<std::string>());
  }
  for (const std::string& name : names) MSA_RETURN_IF_ERROR(AddFile(dir + "/" + name));
  return absl::OkStatus();
}

const TensorView* Checkpoint::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

Fingerprint::Fingerprint() : state_(XXH3_createState()) { XXH3_128bits_reset(state_); }
Fingerprint::~Fingerprint() { XXH3_freeState(state_); }

void Fingerprint::Add(std::string_view bytes) {
  XXH3_128bits_update(state_, bytes.data(), bytes.size());
}

void Fingerprint::AddTensor(std::string_view name, const TensorView& view) {
  Add(StrCat(name, "|", TensorTypeName(view.type), "|", ShapeString(view.shape), "|"));
  XXH3_128bits_update(state_, view.data.data(), view.data.size());
}

void Fingerprint::AddThrough(const Checkpoint& checkpoint, std::string_view prefix) {
  const auto& tensors = checkpoint.tensors();
  const auto last = last_.find(&checkpoint);
  auto tensor = last == last_.end() ? tensors.begin() : tensors.upper_bound(last->second);
  for (; tensor != tensors.end() && tensor->first.substr(0, prefix.size()) <= prefix; ++tensor) {
    AddTensor(tensor->first, *tensor->second);
    last_[&checkpoint] = tensor->first;
  }
}

void Fingerprint::AddRest(const Checkpoint& checkpoint) {
  if (!checkpoint.empty()) AddThrough(checkpoint, checkpoint.tensors().rbegin()->first);
}

std::string Fingerprint::Hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_);
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace msa::compute_node

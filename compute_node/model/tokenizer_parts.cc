#include "compute_node/model/tokenizer_parts.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "common/file.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/model/byte_level.h"
#include "compute_node/model/json_fields.h"

namespace msa::compute_node {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFileBytes = size_t{256} << 20;

absl::StatusOr<nlohmann::json> ReadJson(const fs::path& path) {
  MSA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_object()) return value;
  return absl::InvalidArgumentError(
      StrCat(path.string(), " is no JSON object: the file is damaged or truncated"));
}

// Puts the file's name before the message of a status about its content.
absl::Status InFile(const fs::path& path, const absl::Status& status) {
  if (status.ok()) return status;
  return {status.code(), StrCat(path.string(), ": ", status.message())};
}

template <typename T>
absl::StatusOr<T> InFile(const fs::path& path, absl::StatusOr<T> value) {
  if (value.ok()) return value;
  return InFile(path, value.status());
}

// A special token is given as text or as an object with "content".
std::string TokenContent(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  const nlohmann::json& content = Field(value, "content");
  return content.is_string() ? content.get<std::string>() : std::string();
}

// One template, or a list of named ones of which "default" counts.
std::string ChatTemplate(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return "";
  for (const nlohmann::json& entry : value) {
    const nlohmann::json& source = Field(entry, "template");
    if (Field(entry, "name") == "default" && source.is_string()) return source.get<std::string>();
  }
  return "";
}

}  // namespace

Tokenizer::Parts::Parts(Normalizer normalizer_in, PreTokenizer pre_tokenizer_in, BpeModel bpe_in)
    : normalizer(std::move(normalizer_in)),
      pre_tokenizer(std::move(pre_tokenizer_in)),
      bpe(std::move(bpe_in)) {}

absl::StatusOr<std::unique_ptr<const Tokenizer::Parts>> Tokenizer::Parts::Load(
    const std::string& tokenizer_json_path) {
  const fs::path path = tokenizer_json_path;
  MSA_ASSIGN_OR_RETURN(const nlohmann::json root, ReadJson(path));
  MSA_ASSIGN_OR_RETURN(BpeModel bpe, InFile(path, BpeModel::Create(Field(root, "model"))));
  MSA_ASSIGN_OR_RETURN(Normalizer normalizer,
                       InFile(path, Normalizer::Create(Field(root, "normalizer"))));
  MSA_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer,
                       InFile(path, PreTokenizer::Create(Field(root, "pre_tokenizer"))));
  MSA_ASSIGN_OR_RETURN(const std::vector<AddedToken> added,
                       InFile(path, ParseAddedTokens(Field(root, "added_tokens"))));
  auto parts =
      std::make_unique<Parts>(std::move(normalizer), std::move(pre_tokenizer), std::move(bpe));
  MSA_RETURN_IF_ERROR(InFile(path, parts->AddTokens(added)));
  parts->FillBytes();
  const fs::path folder = path.parent_path();
  // The later file wins: tokenizer_config.json is the one that transformers goes by.
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    if (!fs::exists(folder / name)) continue;
    MSA_ASSIGN_OR_RETURN(const nlohmann::json config, ReadJson(folder / name));
    MSA_RETURN_IF_ERROR(parts->ReadConfig(config, (folder / name).string()));
  }
  if (fs::exists(folder / "chat_template.jinja")) {
    MSA_ASSIGN_OR_RETURN(parts->chat_template,
                         ReadFile(folder / "chat_template.jinja", kMaxFileBytes));
  }
  return parts;
}

absl::Status Tokenizer::Parts::AddTokens(const std::vector<AddedToken>& tokens) {
  for (const AddedToken& token : tokens) {
    const std::optional<int32_t> known = bpe.TokenId(token.content);
    if (known.has_value() && *known != token.id) {
      return absl::InvalidArgumentError(StrCat("added token '", token.content, "' has id ",
                                               token.id, " but model.vocab says ", *known));
    }
    if (token.content.empty()) continue;
    added_ids.insert_or_assign(token.content, token.id);
    if (token.special) special_ids.insert(token.id);
    if (!token.normalized) {
      raw_tokens.Add(token, token.content);
      continue;
    }
    std::string content;
    OffsetMap map;
    MSA_RETURN_IF_ERROR(normalizer.Normalize(token.content, &content, &map));
    normalized_tokens.Add(token, content);
  }
  return absl::OkStatus();
}

void Tokenizer::Parts::FillBytes() {
  int32_t size = 0;
  for (const auto& [token, id] : bpe.vocabulary()) size = std::max(size, id + 1);
  for (const auto& [token, id] : added_ids) size = std::max(size, id + 1);
  bytes_of_id.resize(size);
  const auto fill = [this](const std::string& token, int32_t id) {
    bytes_of_id[id] = BytesOfByteLevel(token).value_or(token);
  };
  for (const auto& [token, id] : bpe.vocabulary()) fill(token, id);
  for (const auto& [token, id] : added_ids) fill(token, id);
}

absl::Status Tokenizer::Parts::ReadConfig(const nlohmann::json& config, const std::string& where) {
  const auto read = [&config](const char* name, std::string* token) {
    const std::string content = TokenContent(Field(config, name));
    if (!content.empty()) *token = content;
  };
  read("bos_token", &bos_token);
  read("eos_token", &eos_token);
  read("pad_token", &pad_token);
  const nlohmann::json& source = Field(config, "chat_template");
  if (source.is_null()) return absl::OkStatus();
  chat_template = ChatTemplate(source);
  if (!chat_template.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(where, ": chat_template is neither text nor a list with a default"));
}

}  // namespace msa::compute_node

#include "compute_node/model/bpe.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "compute_node/model/byte_level.h"
#include "compute_node/model/json_fields.h"

namespace msa::compute_node {
namespace {

constexpr int64_t kMaxTokenId = (1 << 24) - 1;  // sixty times the largest vocabulary in use

// The lowest rank first, then the leftmost: the order in which Hugging Face merges.
struct Later {
  bool operator()(const BpeModel::Candidate& a, const BpeModel::Candidate& b) const {
    return std::pair(a.rank, a.position) > std::pair(b.rank, b.position);
  }
};

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

// What this code has no notion of must be absent, or the ids would be silently wrong.
absl::Status CheckModelOptions(const nlohmann::json& model) {
  MSA_ASSIGN_OR_RETURN(const std::string type, StringField(model, "type", "BPE", "model"));
  if (type != "BPE") {
    return absl::InvalidArgumentError(
        StrCat("model.type '", type, "' is not supported; only BPE is"));
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    MSA_ASSIGN_OR_RETURN(const std::string value, StringField(model, name, "", "model"));
    if (!value.empty()) {
      return absl::InvalidArgumentError(
          StrCat("model.", name, " '", value, "' is not supported; it must be absent"));
    }
  }
  const nlohmann::json& dropout = Field(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
    return absl::InvalidArgumentError("model.dropout is not supported; it must be null");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Create(const nlohmann::json& model) {
  if (!model.is_object()) {
    return absl::InvalidArgumentError("model is missing: this is no tokenizer.json");
  }
  MSA_RETURN_IF_ERROR(CheckModelOptions(model));
  MSA_ASSIGN_OR_RETURN(const bool ignore_merges, BoolField(model, "ignore_merges", false, "model"));
  MSA_ASSIGN_OR_RETURN(const bool byte_fallback, BoolField(model, "byte_fallback", false, "model"));
  BpeModel bpe;
  MSA_RETURN_IF_ERROR(bpe.LoadVocabulary(Field(model, "vocab")));
  MSA_RETURN_IF_ERROR(bpe.LoadMerges(Field(model, "merges")));
  MSA_RETURN_IF_ERROR(bpe.LoadUnknown(model));
  bpe.LoadByteSymbols(byte_fallback);
  bpe.LoadWholeWords(ignore_merges);
  return bpe;
}

absl::Status BpeModel::LoadVocabulary(const nlohmann::json& vocab) {
  if (!vocab.is_object() || vocab.empty()) {
    return absl::InvalidArgumentError("model.vocab is missing or empty");
  }
  vocabulary_.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxTokenId) {
      return absl::InvalidArgumentError(
          StrCat("model.vocab: the id of '", token, "' must be 0 to ", kMaxTokenId));
    }
    vocabulary_.emplace(token, static_cast<int32_t>(id.get<int64_t>()));
  }
  return absl::OkStatus();
}

absl::Status BpeModel::LoadMerges(const nlohmann::json& merges) {
  if (!merges.is_array()) {
    return absl::InvalidArgumentError("model.merges is missing or no list");
  }
  merges_.reserve(merges.size());
  size_t rank = 0;
  for (const nlohmann::json& merge : merges) {
    std::pair<std::string, std::string> parts;
    if (merge.is_string()) {
      const std::string& line = merge.get_ref<const std::string&>();
      if (line.starts_with("#version")) continue;
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      if (words.size() == 2) parts = {words[0], words[1]};
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      parts = {merge[0].get<std::string>(), merge[1].get<std::string>()};
    }
    if (parts.first.empty() || parts.second.empty()) {
      return absl::InvalidArgumentError(
          StrCat("model.merges[", rank, "] must be \"left right\" or [\"left\", \"right\"]"));
    }
    MSA_RETURN_IF_ERROR(AddMerge(rank, parts.first, parts.second));
    ++rank;
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerge(size_t rank, const std::string& left, const std::string& right) {
  std::array<int32_t, 3> ids;
  const std::array<std::string, 3> tokens = {left, right, left + right};
  for (int i = 0; i < 3; ++i) {
    const std::optional<int32_t> id = TokenId(tokens[i]);
    if (!id.has_value()) {
      return absl::InvalidArgumentError(StrCat("model.merges[", rank, "] needs the token '",
                                               tokens[i], "', which is not in model.vocab"));
    }
    ids[i] = *id;
  }
  merges_.insert_or_assign(PairKey(ids[0], ids[1]), Merge{static_cast<uint32_t>(rank), ids[2]});
  return absl::OkStatus();
}

absl::Status BpeModel::LoadUnknown(const nlohmann::json& model) {
  MSA_ASSIGN_OR_RETURN(const std::string unk_token, StringField(model, "unk_token", "", "model"));
  MSA_ASSIGN_OR_RETURN(fuse_unk_, BoolField(model, "fuse_unk", false, "model"));
  if (unk_token.empty()) return absl::OkStatus();
  unk_id_ = TokenId(unk_token);
  if (!unk_id_.has_value()) {
    return absl::InvalidArgumentError(
        StrCat("model.unk_token '", unk_token, "' is not in model.vocab"));
  }
  return absl::OkStatus();
}

void BpeModel::LoadByteSymbols(bool byte_fallback) {
  for (int byte = 0; byte < 256; ++byte) {
    ByteSymbols& symbols = byte_symbols_[byte];
    std::string text;
    AppendUtf8(ByteLevelChar(static_cast<uint8_t>(byte)), &text);
    if (const std::optional<int32_t> id = TokenId(text); id.has_value()) {
      symbols = {ByteKind::kToken, {*id}};
      continue;
    }
    // The fallback spells the bytes of the character that stands for the byte.
    for (const char part : byte_fallback ? text : std::string()) {
      const auto id = TokenId(absl::StrFormat("<0x%02X>", static_cast<uint8_t>(part)));
      if (id.has_value()) symbols.ids.push_back(*id);
    }
    if (byte_fallback && symbols.ids.size() == text.size()) {
      symbols.kind = ByteKind::kFallback;
    } else {
      symbols.ids.clear();
    }
  }
}

void BpeModel::LoadWholeWords(bool ignore_merges) {
  Scratch scratch;
  whole_words_.reserve(vocabulary_.size());
  for (const auto& [token, id] : vocabulary_) {
    std::optional<std::string> bytes = BytesOfByteLevel(token);
    if (!bytes.has_value() || bytes->empty()) continue;
    if (!ignore_merges) {
      scratch.symbols.clear();
      AddSymbols(*bytes, &scratch.symbols);
      MergeSymbols(&scratch);
      const bool is_one = !scratch.symbols.empty() && scratch.symbols[0].next < 0;
      if (!is_one || scratch.symbols[0].id != id) continue;
    }
    whole_words_.emplace(*std::move(bytes), id);
  }
}

std::optional<int32_t> BpeModel::TokenId(std::string_view token) const {
  const auto it = vocabulary_.find(ToAbsl(token));
  if (it == vocabulary_.end()) return std::nullopt;
  return it->second;
}

void BpeModel::Tokenize(std::string_view word, Scratch* scratch, std::vector<Token>* tokens) const {
  if (const auto it = whole_words_.find(ToAbsl(word)); it != whole_words_.end()) {
    tokens->push_back({it->second, 0, static_cast<uint32_t>(word.size())});
    return;
  }
  std::vector<Symbol>& symbols = scratch->symbols;
  symbols.clear();
  AddSymbols(word, &symbols);
  if (symbols.empty()) return;
  MergeSymbols(scratch);
  for (int32_t i = 0; i >= 0; i = symbols[i].next) {
    tokens->push_back({symbols[i].id, symbols[i].begin, symbols[i].end});
  }
}

void BpeModel::AddSymbols(std::string_view word, std::vector<Symbol>* symbols) const {
  // A run of unknown bytes is held back until a known byte comes, so that it can be fused.
  std::optional<Symbol> unknown;
  const auto add = [symbols](Symbol symbol) {
    const int32_t index = static_cast<int32_t>(symbols->size());
    symbol.previous = index - 1;
    symbol.next = index + 1;
    symbols->push_back(symbol);
  };
  for (uint32_t i = 0; i < word.size(); ++i) {
    const ByteSymbols& byte = byte_symbols_[static_cast<uint8_t>(word[i])];
    if (byte.kind == ByteKind::kUnknown) {
      if (!unk_id_.has_value()) continue;
      if (unknown.has_value() && fuse_unk_) {
        unknown->end = i + 1;
        continue;
      }
      if (unknown.has_value()) add(*unknown);
      unknown = Symbol{*unk_id_, i, i + 1, -1, -1};
      continue;
    }
    // Hugging Face leaves the held run where it is when the byte falls back: kept, ids must agree.
    if (unknown.has_value() && byte.kind == ByteKind::kToken) {
      add(*unknown);
      unknown.reset();
    }
    for (const int32_t id : byte.ids) add({id, i, i + 1, -1, -1});
  }
  if (unknown.has_value()) add(*unknown);
  if (!symbols->empty()) symbols->back().next = -1;
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left_id, int32_t right_id) const {
  const auto it = merges_.find(PairKey(left_id, right_id));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeModel::Propose(int32_t left, Scratch* scratch) const {
  if (left < 0) return;
  const Symbol& symbol = scratch->symbols[left];
  if (symbol.next < 0) return;
  const Merge* merge = FindMerge(symbol.id, scratch->symbols[symbol.next].id);
  if (merge == nullptr) return;
  scratch->heap.push_back({merge->rank, left, merge->merged_id});
  std::push_heap(scratch->heap.begin(), scratch->heap.end(), Later());
}

void BpeModel::MergeSymbols(Scratch* scratch) const {
  std::vector<Symbol>& symbols = scratch->symbols;
  scratch->heap.clear();
  for (size_t i = 0; i + 1 < symbols.size(); ++i) Propose(static_cast<int32_t>(i), scratch);
  while (!scratch->heap.empty()) {
    const Candidate top = scratch->heap.front();
    std::pop_heap(scratch->heap.begin(), scratch->heap.end(), Later());
    scratch->heap.pop_back();
    Symbol& left = symbols[top.position];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // The pair may have changed since it was proposed.
    const Merge* merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->merged_id != top.merged_id) continue;
    left.id = top.merged_id;
    left.end = right.end;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = top.position;
    Propose(left.previous, scratch);
    Propose(top.position, scratch);
  }
}

}  // namespace msa::compute_node

#include "compute_node/model/added_tokens.h"

#include <unicode/uchar.h>

#include <utility>

#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "compute_node/model/json_fields.h"
#include "compute_node/model/unicode_additions.h"

namespace msa::compute_node {
namespace {

constexpr int64_t kMaxTokenId = (1 << 24) - 1;
constexpr size_t kMaxContentBytes = 4096;

absl::StatusOr<AddedToken> ParseAddedToken(const nlohmann::json& entry, const std::string& where) {
  AddedToken token;
  const nlohmann::json& id = Field(entry, "id");
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxTokenId) {
    return absl::InvalidArgumentError(StrCat(where, ".id must be 0 to ", kMaxTokenId));
  }
  token.id = static_cast<int32_t>(id.get<int64_t>());
  MSA_ASSIGN_OR_RETURN(token.content, StringField(entry, "content", "", where));
  if (token.content.size() > kMaxContentBytes) {
    return absl::InvalidArgumentError(
        StrCat(where, ".content is longer than ", kMaxContentBytes, " bytes"));
  }
  MSA_ASSIGN_OR_RETURN(token.special, BoolField(entry, "special", false, where));
  MSA_ASSIGN_OR_RETURN(token.lstrip, BoolField(entry, "lstrip", false, where));
  MSA_ASSIGN_OR_RETURN(token.rstrip, BoolField(entry, "rstrip", false, where));
  MSA_ASSIGN_OR_RETURN(token.single_word, BoolField(entry, "single_word", false, where));
  MSA_ASSIGN_OR_RETURN(token.normalized, BoolField(entry, "normalized", !token.special, where));
  return token;
}

// The character that ends at `end`.
Utf8Char CharBefore(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && !IsUtf8CharStart(text[begin])) --begin;
  return NextUtf8(text.substr(begin, end - begin));
}

bool IsSpace(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)); }

// \w of Unicode TS 18, which the reference uses for `single_word`.
bool IsWordCharacter(char32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  constexpr uint32_t kMask = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_isUAlphabetic(c) || (U_GET_GC_MASK(c) & kMask) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) || IsAddedWordCharacter(code_point);
}

bool TouchesWord(std::string_view text, ByteRange match) {
  if (match.begin > 0 && IsWordCharacter(CharBefore(text, match.begin).code_point)) return true;
  return match.end < text.size() && IsWordCharacter(NextUtf8(text.substr(match.end)).code_point);
}

size_t SkipSpaceBack(std::string_view text, size_t from, size_t limit) {
  while (from > limit) {
    const Utf8Char c = CharBefore(text, from);
    if (!IsSpace(c.code_point)) break;
    from -= c.size;
  }
  return from;
}

size_t SkipSpace(std::string_view text, size_t from, size_t limit) {
  while (from < limit) {
    const Utf8Char c = NextUtf8(text.substr(from));
    if (!IsSpace(c.code_point)) break;
    from += c.size;
  }
  return from;
}

}  // namespace

absl::StatusOr<std::vector<AddedToken>> ParseAddedTokens(const nlohmann::json& list) {
  std::vector<AddedToken> tokens;
  if (list.is_null()) return tokens;
  if (!list.is_array()) return absl::InvalidArgumentError("added_tokens is no list");
  for (const nlohmann::json& entry : list) {
    const std::string where = StrCat("added_tokens[", tokens.size(), "]");
    MSA_ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(entry, where));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void AddedTokenFinder::Add(const AddedToken& token, std::string_view content) {
  if (content.empty()) return;
  first_bytes_.set(static_cast<uint8_t>(content[0]));
  uint32_t node = 0;
  for (const char byte : content) {
    const uint64_t key = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
    const auto [it, is_new] =
        children_.try_emplace(key, static_cast<uint32_t>(token_of_node_.size()));
    if (is_new) token_of_node_.push_back(-1);
    node = it->second;
  }
  token_of_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.lstrip, token.rstrip, token.single_word});
}

AddedTokenFinder::Candidate AddedTokenFinder::Longest(std::string_view text, size_t begin,
                                                      size_t limit) const {
  Candidate best;
  uint32_t node = 0;
  for (size_t i = begin; i < limit; ++i) {
    const auto it =
        children_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
    if (it == children_.end()) break;
    node = it->second;
    if (token_of_node_[node] >= 0) best = {i + 1, token_of_node_[node]};
  }
  return best;
}

void AddedTokenFinder::FindIn(std::string_view text, ByteRange stretch,
                              std::vector<Match>* matches) const {
  size_t taken = stretch.begin;  // end of the match before
  for (size_t at = stretch.begin; at < stretch.end;) {
    if (!first_bytes_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const Candidate found = Longest(text, at, stretch.end);
    if (found.token < 0) {
      ++at;
      continue;
    }
    const Token& token = tokens_[found.token];
    ByteRange bytes = {at, found.end};
    at = found.end;
    if (token.single_word && TouchesWord(text, bytes)) continue;
    if (token.lstrip) bytes.begin = SkipSpaceBack(text, bytes.begin, taken);
    if (token.rstrip) bytes.end = SkipSpace(text, bytes.end, stretch.end);
    matches->push_back({bytes, token.id});
    taken = at = bytes.end;
  }
}

std::vector<AddedTokenFinder::Match> AddedTokenFinder::Find(
    std::string_view text, absl::Span<const ByteRange> literal) const {
  std::vector<Match> matches;
  if (tokens_.empty()) return matches;
  size_t begin = 0;
  for (const ByteRange& range : literal) {
    if (range.empty()) continue;
    FindIn(text, {begin, range.begin}, &matches);
    begin = range.end;
  }
  FindIn(text, {begin, text.size()}, &matches);
  return matches;
}

}  // namespace msa::compute_node

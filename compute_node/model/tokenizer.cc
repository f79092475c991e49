#include "compute_node/model/tokenizer.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "compute_node/model/tokenizer_parts.h"

namespace msa::compute_node {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

absl::Status CheckText(std::string_view utf8, absl::Span<const ByteRange> literal) {
  if (utf8.size() >= kMaxTextBytes) {
    return absl::InvalidArgumentError("the text is 1 GiB or more; split it");
  }
  if (const auto at = FirstInvalidUtf8(utf8); at.has_value()) {
    return absl::InvalidArgumentError(StrCat("the text is not valid UTF-8 at byte ", *at));
  }
  const auto cuts = [utf8](size_t at) { return at < utf8.size() && !IsUtf8CharStart(utf8[at]); };
  size_t begin = 0;
  for (const ByteRange& range : literal) {
    if (range.begin < begin || range.end < range.begin || range.end > utf8.size() ||
        cuts(range.begin) || cuts(range.end)) {
      return absl::InvalidArgumentError(StrCat("literal range ", range.begin, " to ", range.end,
                                               " is out of order or cuts a character"));
    }
    begin = range.end;
  }
  return absl::OkStatus();
}

}  // namespace

void Tokenizer::Text::Append(std::string_view frame) { utf8.append(frame); }

void Tokenizer::Text::AppendLiteral(std::string_view user_text) {
  if (user_text.empty()) return;
  literal.push_back({utf8.size(), utf8.size() + user_text.size()});
  utf8.append(user_text);
}

void Tokenizer::Text::Append(const Text& other) {
  const size_t shift = utf8.size();
  for (const ByteRange& range : other.literal) {
    literal.push_back({range.begin + shift, range.end + shift});
  }
  utf8.append(other.utf8);
}

// One encoding on its way: cuts the text at added tokens and tokenises what lies between.
class Tokenizer::Encoder {
 public:
  // `with_offsets` false saves the memory of the offsets.
  Encoder(const Parts& parts, std::string_view utf8, absl::Span<const ByteRange> literal,
          bool with_offsets)
      : parts_(parts), utf8_(utf8), literal_(literal), with_offsets_(with_offsets) {}

  absl::StatusOr<Encoding> Run() {
    MSA_RETURN_IF_ERROR(CheckText(utf8_, literal_));
    size_t at = 0;
    for (const AddedTokenFinder::Match& match : parts_.raw_tokens.Find(utf8_, literal_)) {
      MSA_RETURN_IF_ERROR(EncodeSection({at, match.bytes.begin}));
      AddToken(match.id, match.bytes);
      at = match.bytes.end;
    }
    MSA_RETURN_IF_ERROR(EncodeSection({at, utf8_.size()}));
    return std::move(result_);
  }

 private:
  // A section of the source without raw added tokens, normalised.
  struct Section {
    std::string_view text;
    ByteRange source;
    const OffsetMap& map;

    ByteRange ToSource(ByteRange range) const {
      const ByteRange inside = map.ToSource(range);
      return {source.begin + inside.begin, source.begin + inside.end};
    }
  };

  void AddToken(int32_t id, ByteRange source) {
    result_.ids.push_back(id);
    if (with_offsets_) result_.offsets.push_back(source);
  }

  absl::Status EncodeSection(ByteRange source) {
    if (source.empty()) return absl::OkStatus();
    const std::string_view text = utf8_.substr(source.begin, source.size());
    OffsetMap map;
    if (!parts_.normalizer.Changes(text)) return EncodeNormalized({text, source, map});
    std::string normalized;
    MSA_RETURN_IF_ERROR(parts_.normalizer.Normalize(text, &normalized, &map));
    return EncodeNormalized({normalized, source, map});
  }

  absl::Status EncodeNormalized(const Section& section) {
    size_t at = 0;
    for (const AddedTokenFinder::Match& match : parts_.normalized_tokens.Find(section.text, {})) {
      const ByteRange source = section.ToSource(match.bytes);
      if (OverlapsLiteral(source)) continue;
      MSA_RETURN_IF_ERROR(EncodePlain(section, {at, match.bytes.begin}));
      AddToken(match.id, source);
      at = match.bytes.end;
    }
    return EncodePlain(section, {at, section.text.size()});
  }

  bool OverlapsLiteral(ByteRange source) const {
    const auto it =
        std::partition_point(literal_.begin(), literal_.end(),
                             [&](const ByteRange& range) { return range.end <= source.begin; });
    return it != literal_.end() && it->begin < source.end;
  }

  absl::Status EncodePlain(const Section& section, ByteRange range) {
    const std::string_view text = section.text.substr(range.begin, range.size());
    MSA_RETURN_IF_ERROR(parts_.pre_tokenizer.Split(text, &words_));
    for (const PreTokenizer::Word& word : words_) EncodeWord(section, range.begin, text, word);
    return absl::OkStatus();
  }

  void EncodeWord(const Section& section, size_t base, std::string_view text,
                  const PreTokenizer::Word& word) {
    const std::string_view bytes = text.substr(word.bytes.begin, word.bytes.size());
    tokens_.clear();
    if (word.space_before) {
      parts_.bpe.Tokenize(StrCat(" ", bytes), &scratch_, &tokens_);
    } else {
      parts_.bpe.Tokenize(bytes, &scratch_, &tokens_);
    }
    const size_t prefix = word.space_before ? 1 : 0;
    for (const BpeModel::Token& token : tokens_) {
      const size_t begin = base + word.bytes.begin + std::max<size_t>(token.begin, prefix) - prefix;
      const size_t end = base + word.bytes.begin + token.end - prefix;
      AddToken(token.id, with_offsets_ ? section.ToSource({begin, end}) : ByteRange());
    }
  }

  const Parts& parts_;
  std::string_view utf8_;
  absl::Span<const ByteRange> literal_;
  bool with_offsets_;
  Encoding result_;
  std::vector<PreTokenizer::Word> words_;
  std::vector<BpeModel::Token> tokens_;
  BpeModel::Scratch scratch_;
};

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& tokenizer_json_path) {
  MSA_ASSIGN_OR_RETURN(std::unique_ptr<const Parts> parts, Parts::Load(tokenizer_json_path));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(const Text& text) const {
  MSA_ASSIGN_OR_RETURN(Encoding encoding, Encoder(*parts_, text.utf8, text.literal, false).Run());
  return std::move(encoding.ids);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view utf8) const {
  MSA_ASSIGN_OR_RETURN(Encoding encoding, Encoder(*parts_, utf8, {}, false).Run());
  return std::move(encoding.ids);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeLiteral(std::string_view utf8) const {
  const ByteRange whole = {0, utf8.size()};
  MSA_ASSIGN_OR_RETURN(Encoding encoding, Encoder(*parts_, utf8, {&whole, 1}, false).Run());
  return std::move(encoding.ids);
}

absl::StatusOr<Tokenizer::Encoding> Tokenizer::EncodeWithOffsets(const Text& text) const {
  return Encoder(*parts_, text.utf8, text.literal, true).Run();
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!skip_special || !IsSpecial(id)) bytes.append(TokenBytes(id));
  }
  std::string text;
  AppendReplacingInvalidUtf8(bytes, &text);
  return text;
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return "";
  return parts_->bytes_of_id[id];
}

std::string Tokenizer::StreamDecoder::Push(int32_t id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return "";
  held_.append(tokenizer_->TokenBytes(id));
  // A character is at most four bytes: only the last three can wait for more.
  size_t certain = held_.size();
  for (size_t back = 1; back <= 3 && back <= held_.size(); ++back) {
    const size_t start = held_.size() - back;
    if (!IsUtf8CharStart(held_[start])) continue;
    const Utf8Char last = NextUtf8(std::string_view(held_).substr(start));
    if (last.state == Utf8State::kIncomplete) certain = start;
    break;
  }
  std::string text;
  AppendReplacingInvalidUtf8(std::string_view(held_).substr(0, certain), &text);
  held_.erase(0, certain);
  return text;
}

std::string Tokenizer::StreamDecoder::Flush() {
  std::string text;
  AppendReplacingInvalidUtf8(held_, &text);
  held_.clear();
  return text;
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  const auto it = parts_->added_ids.find(ToAbsl(token));
  if (it != parts_->added_ids.end()) return it->second;
  return parts_->bpe.TokenId(token);
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(parts_->bytes_of_id.size()); }

bool Tokenizer::IsSpecial(int32_t id) const { return parts_->special_ids.contains(id); }

std::optional<int32_t> Tokenizer::bos_id() const { return TokenId(parts_->bos_token); }
std::optional<int32_t> Tokenizer::eos_id() const { return TokenId(parts_->eos_token); }
std::optional<int32_t> Tokenizer::pad_id() const { return TokenId(parts_->pad_token); }
const std::string& Tokenizer::chat_template() const { return parts_->chat_template; }

}  // namespace msa::compute_node

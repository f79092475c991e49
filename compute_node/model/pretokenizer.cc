#include "compute_node/model/pretokenizer.h"

#include <unicode/uchar.h>

#include <string>
#include <utility>

#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "compute_node/model/json_fields.h"
#include "compute_node/model/regex.h"
#include "compute_node/model/unicode_additions.h"

namespace msa::compute_node {
namespace {

using Word = PreTokenizer::Word;

constexpr int kMaxDepth = 16;  // of Sequence inside Sequence

// GPT-2's, which ByteLevel applies when `use_regex`.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What becomes of the matches of a Split and the text between them.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct Piece {
  ByteRange bytes;
  bool is_match;
};

absl::StatusOr<Behavior> ParseBehavior(std::string_view name) {
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  return absl::InvalidArgumentError(
      StrCat("pre_tokenizer Split: behavior '", name, "' is not supported"));
}

// Joins neighbours in place; `joins(left, right)` decides on the original pieces.
template <typename Joins>
void JoinPieces(std::vector<Piece>* pieces, Joins joins) {
  size_t kept = 0;
  bool previous_is_match = false;
  for (size_t i = 0; i < pieces->size(); ++i) {
    const Piece piece = (*pieces)[i];
    if (kept > 0 && joins(previous_is_match, piece.is_match)) {
      (*pieces)[kept - 1].bytes.end = piece.bytes.end;
    } else {
      (*pieces)[kept++] = piece;
    }
    previous_is_match = piece.is_match;
  }
  pieces->resize(kept);
}

// Of several matches in a row only the first joins the text before it and only the last the text
// after it, as in Hugging Face.
void ApplyBehavior(Behavior behavior, std::vector<Piece>* pieces) {
  switch (behavior) {
    case Behavior::kIsolated:
      return;
    case Behavior::kRemoved:
      std::erase_if(*pieces, [](const Piece& piece) { return piece.is_match; });
      return;
    case Behavior::kContiguous:
      return JoinPieces(pieces, [](bool left, bool right) { return left == right; });
    case Behavior::kMergedWithPrevious:
      return JoinPieces(pieces, [](bool left, bool right) { return !left && right; });
    case Behavior::kMergedWithNext:
      return JoinPieces(pieces, [](bool left, bool right) { return left && !right; });
  }
}

// Hands the text of a word to `cut` (begin and end offsets of pieces come back relative to it) and
// appends the pieces as words. A word with a space before it is copied, so that the space takes
// part.
template <typename Cut>
absl::Status CutWord(std::string_view text, const Word& word, Cut cut, std::vector<Word>* out) {
  const std::string_view bytes = text.substr(word.bytes.begin, word.bytes.size());
  if (!word.space_before) {
    return cut(bytes, [&](ByteRange piece) {
      out->push_back({{word.bytes.begin + piece.begin, word.bytes.begin + piece.end}, false});
    });
  }
  return cut(StrCat(" ", bytes), [&](ByteRange piece) {
    const bool first = piece.begin == 0;
    const size_t begin = first ? 0 : piece.begin - 1;
    out->push_back({{word.bytes.begin + begin, word.bytes.begin + piece.end - 1}, first});
  });
}

class SplitStep : public PreTokenizer::Step {
 public:
  SplitStep(Regex regex, Behavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  absl::Status Apply(std::string_view text, const std::vector<Word>& words,
                     std::vector<Word>* out) const override {
    Regex::Matcher matcher(regex_);
    std::vector<Piece> pieces;
    for (const Word& word : words) {
      const auto cut = [&](std::string_view bytes, auto add) {
        MSA_RETURN_IF_ERROR(FindPieces(bytes, &matcher, &pieces));
        for (const Piece& piece : pieces) add(piece.bytes);
        return absl::OkStatus();
      };
      MSA_RETURN_IF_ERROR(CutWord(text, word, cut, out));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status FindPieces(std::string_view bytes, Regex::Matcher* matcher,
                          std::vector<Piece>* pieces) const {
    pieces->clear();
    for (size_t at = 0; at < bytes.size();) {
      ByteRange match;
      MSA_RETURN_IF_ERROR(matcher->Next(bytes, at, &match));
      if (match.begin > at) pieces->push_back({{at, match.begin}, invert_});
      if (!match.empty()) pieces->push_back({match, !invert_});
      at = match.end;
    }
    ApplyBehavior(behavior_, pieces);
    return absl::OkStatus();
  }

  Regex regex_;
  Behavior behavior_;
  bool invert_;
};

// Digits of every script and other numbers, each alone or in runs.
class DigitsStep : public PreTokenizer::Step {
 public:
  explicit DigitsStep(bool individual) : individual_(individual) {}

  absl::Status Apply(std::string_view text, const std::vector<Word>& words,
                     std::vector<Word>* out) const override {
    const auto cut = [this](std::string_view bytes, auto add) {
      Cut(bytes, add);
      return absl::OkStatus();
    };
    for (const Word& word : words) MSA_RETURN_IF_ERROR(CutWord(text, word, cut, out));
    return absl::OkStatus();
  }

 private:
  static bool IsNumeric(char32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9';
    return (U_GET_GC_MASK(static_cast<UChar32>(c)) & U_GC_N_MASK) != 0 || IsAddedNumeric(c);
  }

  template <typename Add>
  void Cut(std::string_view bytes, Add add) const {
    size_t begin = 0;
    bool in_number = false;
    for (size_t at = 0; at < bytes.size();) {
      const Utf8Char next = NextUtf8(bytes.substr(at));
      const bool is_number = IsNumeric(next.code_point);
      if (at > begin && (is_number != in_number || (is_number && individual_))) {
        add({begin, at});
        begin = at;
      }
      in_number = is_number;
      at += next.size;
    }
    if (begin < bytes.size()) add({begin, bytes.size()});
  }

  bool individual_;
};

// A space before every word that does not begin with one.
class PrefixSpaceStep : public PreTokenizer::Step {
 public:
  absl::Status Apply(std::string_view text, const std::vector<Word>& words,
                     std::vector<Word>* out) const override {
    *out = words;
    for (Word& word : *out) {
      word.space_before = word.bytes.empty() || text[word.bytes.begin] != ' ';
    }
    return absl::OkStatus();
  }
};

// `pattern` is {"Regex": …} or {"String": …}.
absl::StatusOr<Regex> CompilePattern(const nlohmann::json& pattern) {
  const std::string where = "pre_tokenizer Split: pattern";
  MSA_ASSIGN_OR_RETURN(const std::string regex, StringField(pattern, "Regex", "", where));
  MSA_ASSIGN_OR_RETURN(const std::string literal, StringField(pattern, "String", "", where));
  if (regex.empty() == literal.empty()) {
    return absl::InvalidArgumentError(StrCat(where, " must be {\"Regex\": …} or {\"String\": …}"));
  }
  absl::StatusOr<Regex> compiled =
      regex.empty() ? Regex::CompileLiteral(literal) : Regex::Compile(regex);
  if (compiled.ok()) return compiled;
  return absl::InvalidArgumentError(StrCat(where, ": ", compiled.status().message()));
}

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Create(const nlohmann::json& config) {
  PreTokenizer result;
  if (!config.is_null()) MSA_RETURN_IF_ERROR(result.Add(config, 0));
  if (result.has_byte_level_) return result;
  return absl::InvalidArgumentError(
      "pre_tokenizer has no ByteLevel: only byte-level BPE tokenizers are supported");
}

absl::Status PreTokenizer::Add(const nlohmann::json& config, int depth) {
  MSA_ASSIGN_OR_RETURN(const std::string type, StringField(config, "type", "", "pre_tokenizer"));
  if (depth > kMaxDepth) return absl::InvalidArgumentError("pre_tokenizer is nested too deeply");
  if (has_byte_level_ && type != "Sequence") {
    return absl::InvalidArgumentError(
        StrCat("pre_tokenizer: '", type, "' after ByteLevel is not supported"));
  }
  if (type == "ByteLevel") return AddByteLevel(config);
  if (type == "Split") return AddSplit(config);
  if (type == "Digits") return AddDigits(config);
  if (type == "Sequence") return AddSequence(config, depth);
  return absl::InvalidArgumentError(
      StrCat("pre_tokenizer type '", type,
             "' is not supported; supported are ByteLevel, Split, Digits and Sequence"));
}

absl::Status PreTokenizer::AddByteLevel(const nlohmann::json& config) {
  const std::string where = "pre_tokenizer ByteLevel";
  MSA_ASSIGN_OR_RETURN(const bool prefix, BoolField(config, "add_prefix_space", true, where));
  MSA_ASSIGN_OR_RETURN(const bool use_regex, BoolField(config, "use_regex", true, where));
  has_byte_level_ = true;
  if (prefix) steps_.push_back(std::make_unique<PrefixSpaceStep>());
  if (!use_regex) return absl::OkStatus();
  MSA_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kGpt2Pattern));
  steps_.push_back(
      std::make_unique<SplitStep>(std::move(regex), Behavior::kIsolated, /*invert=*/false));
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddSplit(const nlohmann::json& config) {
  const std::string where = "pre_tokenizer Split";
  MSA_ASSIGN_OR_RETURN(const std::string name, StringField(config, "behavior", "", where));
  MSA_ASSIGN_OR_RETURN(const Behavior behavior, ParseBehavior(name));
  MSA_ASSIGN_OR_RETURN(const bool invert, BoolField(config, "invert", false, where));
  MSA_ASSIGN_OR_RETURN(Regex regex, CompilePattern(Field(config, "pattern")));
  steps_.push_back(std::make_unique<SplitStep>(std::move(regex), behavior, invert));
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddDigits(const nlohmann::json& config) {
  MSA_ASSIGN_OR_RETURN(const bool individual,
                       BoolField(config, "individual_digits", false, "pre_tokenizer Digits"));
  steps_.push_back(std::make_unique<DigitsStep>(individual));
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddSequence(const nlohmann::json& config, int depth) {
  const nlohmann::json& parts = Field(config, "pretokenizers");
  if (!parts.is_array()) {
    return absl::InvalidArgumentError("pre_tokenizer Sequence: pretokenizers is missing");
  }
  for (const nlohmann::json& part : parts) MSA_RETURN_IF_ERROR(Add(part, depth + 1));
  return absl::OkStatus();
}

absl::Status PreTokenizer::Split(std::string_view text, std::vector<Word>* words) const {
  words->clear();
  if (text.empty()) return absl::OkStatus();
  words->push_back({{0, text.size()}, false});
  std::vector<Word> cut;
  for (const auto& step : steps_) {
    cut.clear();
    MSA_RETURN_IF_ERROR(step->Apply(text, *words, &cut));
    words->swap(cut);
  }
  return absl::OkStatus();
}

}  // namespace msa::compute_node

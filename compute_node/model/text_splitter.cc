#include "compute_node/model/text_splitter.h"

#include <unicode/brkiter.h>
#include <unicode/utext.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"

namespace msa::compute_node {
namespace {

// A part alone may have a few tokens less than the same bytes within the text, whose merges cross
// its edges: cuts this many tokens past the estimate are tried too.
constexpr size_t kSlackTokens = 4;
// Cuts tried one by one, from the last, before the rest is searched by halves.
constexpr int kTriedOneByOne = 8;
// Text after the window that ICU sees to judge the window's end.
constexpr size_t kLookAheadBytes = 64;

size_t CharStartAtOrBefore(std::string_view text, size_t at) {
  while (at > 0 && at < text.size() && !IsUtf8CharStart(text[at])) --at;
  return at;
}

// Whether `text` ends with a sentence's end: a full stop or its like, perhaps in quotes.
bool EndsSentence(std::string_view text) {
  static constexpr std::string_view kClosers[] = {"\"", "'", ")", "]", "”", "’", "»"};
  static constexpr std::string_view kStops[] = {".", "!", "?", ":", "…", "。", "！", "？"};
  for (const std::string_view closer : kClosers) {
    if (text.ends_with(closer)) text.remove_suffix(closer.size());
  }
  return std::any_of(std::begin(kStops), std::end(kStops),
                     [text](std::string_view stop) { return text.ends_with(stop); });
}

// Line ends of a window, by what they end.
struct LineEnds {
  std::vector<size_t> paragraphs;
  std::vector<size_t> lines;  // the others
};

// A run of line ends and blanks between them counts as one end, after its last line end:
// indentation belongs to what follows. Offsets in `text`; ascending; in (window.begin, window.end].
LineEnds FindLineEnds(std::string_view text, ByteRange window) {
  LineEnds ends;
  text = text.substr(0, window.end);  // a search must not run on through a book without line ends
  size_t at = window.begin;
  while ((at = text.find('\n', at)) < window.end) {
    const size_t first = at;
    size_t last = at;
    int count = 0;
    for (; at < window.end && std::string_view(" \t\r\n").find(text[at]) != std::string_view::npos;
         ++at) {
      if (text[at] != '\n') continue;
      last = at;
      ++count;
    }
    std::string_view content = text.substr(window.begin, first - window.begin);
    content = content.substr(0, content.find_last_not_of(" \t\r\n") + 1);
    const bool ends_paragraph = count > 1 || EndsSentence(content);
    (ends_paragraph ? ends.paragraphs : ends.lines).push_back(last + 1);
  }
  return ends;
}

// ICU's sentence or line break iterator over a window of the text.
class Breaks {
 public:
  enum class Kind { kSentence, kLine };

  static absl::StatusOr<Breaks> Create(Kind kind) {
    UErrorCode error = U_ZERO_ERROR;
    const icu::Locale& root = icu::Locale::getRoot();
    Breaks breaks;
    breaks.iterator_.reset(kind == Kind::kSentence
                               ? icu::BreakIterator::createSentenceInstance(root, error)
                               : icu::BreakIterator::createLineInstance(root, error));
    if (U_SUCCESS(error)) return breaks;
    return absl::InternalError(StrCat("ICU has no break rules: ", u_errorName(error)));
  }

  // The boundaries in (window.begin, window.end], ascending.
  absl::StatusOr<std::vector<size_t>> Find(std::string_view text, ByteRange window) {
    const size_t seen_end =
        CharStartAtOrBefore(text, std::min(text.size(), window.end + kLookAheadBytes));
    UErrorCode error = U_ZERO_ERROR;
    UText* utext = utext_openUTF8(nullptr, text.data() + window.begin,
                                  static_cast<int64_t>(seen_end - window.begin), &error);
    iterator_->setText(utext, error);
    std::vector<size_t> found;
    if (U_SUCCESS(error)) {
      iterator_->first();
      int32_t at = 0;
      while ((at = iterator_->next()) != icu::BreakIterator::DONE) {
        const size_t end = window.begin + static_cast<size_t>(at);
        if (end > window.end) break;
        found.push_back(end);
      }
    }
    utext_close(utext);
    if (U_SUCCESS(error)) return found;
    return absl::InternalError(StrCat("ICU cannot break text: ", u_errorName(error)));
  }

 private:
  std::unique_ptr<icu::BreakIterator> iterator_;
};

class Splitter {
 public:
  Splitter(const Tokenizer& tokenizer, std::string_view text, size_t max_tokens, bool parse_special)
      : tokenizer_(tokenizer),
        text_(text),
        max_tokens_(max_tokens),
        parse_special_(parse_special) {}

  absl::StatusOr<std::vector<ByteRange>> Run() {
    Tokenizer::Text whole;
    parse_special_ ? whole.Append(text_) : whole.AppendLiteral(text_);
    MSA_ASSIGN_OR_RETURN(const Tokenizer::Encoding encoding, tokenizer_.EncodeWithOffsets(whole));
    if (encoding.ids.size() <= max_tokens_) return std::vector<ByteRange>{{0, text_.size()}};
    offsets_ = encoding.offsets;
    std::vector<ByteRange> parts;
    for (size_t begin = 0; begin < text_.size();) {
      MSA_ASSIGN_OR_RETURN(const size_t end, FindEnd(begin));
      parts.push_back({begin, end});
      begin = end;
    }
    return parts;
  }

 private:
  absl::StatusOr<bool> Fits(size_t begin, size_t end) const {
    const std::string_view part = text_.substr(begin, end - begin);
    MSA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                         parse_special_ ? tokenizer_.Encode(part) : tokenizer_.EncodeLiteral(part));
    return ids.size() <= max_tokens_;
  }

  // Where a part from `begin` ends at the latest, by the tokens of the whole text.
  size_t Horizon(size_t begin) const {
    const auto first =
        std::partition_point(offsets_.begin(), offsets_.end(),
                             [begin](const ByteRange& token) { return token.begin < begin; });
    const size_t tokens_left = static_cast<size_t>(offsets_.end() - first);
    const size_t tokens = max_tokens_ + kSlackTokens;
    if (tokens_left <= tokens) return text_.size();
    // The end of the token's character: a limit inside it would leave the first character none.
    size_t end = (first + static_cast<std::ptrdiff_t>(tokens - 1))->end;
    while (end < text_.size() && !IsUtf8CharStart(text_[end])) ++end;
    return end;
  }

  absl::StatusOr<size_t> FindEnd(size_t begin) {
    const ByteRange window = {begin, Horizon(begin)};
    if (window.end == text_.size()) {
      MSA_ASSIGN_OR_RETURN(const bool fits, Fits(begin, window.end));
      if (fits) return window.end;
    }
    const LineEnds line_ends = FindLineEnds(text_, window);
    MSA_ASSIGN_OR_RETURN(size_t end, LastThatFits(begin, line_ends.paragraphs));
    if (end > begin) return end;
    MSA_ASSIGN_OR_RETURN(end, LastSentence(window, line_ends));
    if (end > begin) return end;
    MSA_ASSIGN_OR_RETURN(end, LastThatFits(begin, line_ends.lines));
    if (end > begin) return end;
    MSA_ASSIGN_OR_RETURN(end, LastWord(window));
    if (end > begin) return end;
    return LastCharacter(window);
  }

  // The last of `ends` that fits, or `begin` when none does.
  absl::StatusOr<size_t> LastThatFits(size_t begin, const std::vector<size_t>& ends) const {
    size_t left = ends.size();
    for (int tries = 0; left > 0 && tries < kTriedOneByOne; ++tries) {
      MSA_ASSIGN_OR_RETURN(const bool fits, Fits(begin, ends[--left]));
      if (fits) return ends[left];
    }
    size_t best = begin;
    for (size_t low = 0; low < left;) {
      const size_t middle = low + (left - low) / 2;
      MSA_ASSIGN_OR_RETURN(const bool fits, Fits(begin, ends[middle]));
      if (fits) best = ends[middle];
      (fits ? low : left) = fits ? middle + 1 : middle;
    }
    return best;
  }

  // ICU ends a sentence at every line end; one inside a sentence (hard-wrapped text) is not taken.
  absl::StatusOr<size_t> LastSentence(ByteRange window, const LineEnds& line_ends) {
    MSA_ASSIGN_OR_RETURN(std::vector<size_t> ends,
                         FindBreaks(&sentences_, Breaks::Kind::kSentence, window));
    std::erase_if(ends, [&](size_t end) {
      return text_[end - 1] == '\n' &&
             !std::binary_search(line_ends.paragraphs.begin(), line_ends.paragraphs.end(), end);
    });
    return LastThatFits(window.begin, ends);
  }

  absl::StatusOr<size_t> LastWord(ByteRange window) {
    MSA_ASSIGN_OR_RETURN(const std::vector<size_t> ends,
                         FindBreaks(&words_, Breaks::Kind::kLine, window));
    return LastThatFits(window.begin, ends);
  }

  absl::StatusOr<std::vector<size_t>> FindBreaks(std::unique_ptr<Breaks>* breaks, Breaks::Kind kind,
                                                 ByteRange window) {
    if (*breaks == nullptr) {
      MSA_ASSIGN_OR_RETURN(Breaks created, Breaks::Create(kind));
      *breaks = std::make_unique<Breaks>(std::move(created));
    }
    return (*breaks)->Find(text_, window);
  }

  absl::StatusOr<size_t> LastCharacter(ByteRange window) const {
    std::vector<size_t> ends;
    for (size_t at = window.begin + 1; at <= window.end; ++at) {
      if (at == text_.size() || IsUtf8CharStart(text_[at])) ends.push_back(at);
    }
    MSA_ASSIGN_OR_RETURN(const size_t end, LastThatFits(window.begin, ends));
    if (end > window.begin) return end;
    return absl::InvalidArgumentError(StrCat("the character at byte ", window.begin,
                                             " alone has more than ", max_tokens_,
                                             " tokens: allow more tokens a part"));
  }

  const Tokenizer& tokenizer_;
  std::string_view text_;
  size_t max_tokens_;
  bool parse_special_;
  std::vector<ByteRange> offsets_;  // of the tokens of the whole text
  std::unique_ptr<Breaks> sentences_;
  std::unique_ptr<Breaks> words_;
};

}  // namespace

absl::StatusOr<std::vector<ByteRange>> SplitText(const Tokenizer& tokenizer, std::string_view text,
                                                 int max_tokens, bool parse_special_tokens) {
  if (max_tokens < 1) {
    return absl::InvalidArgumentError(
        StrCat("max_tokens is ", max_tokens, "; it must be 1 or more"));
  }
  return Splitter(tokenizer, text, static_cast<size_t>(max_tokens), parse_special_tokens).Run();
}

}  // namespace msa::compute_node

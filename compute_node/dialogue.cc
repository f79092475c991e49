#include "compute_node/dialogue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::compute_node {
namespace {

constexpr std::string_view kInstruction =
    "\nPlease answer the question based on the above historical document information\n\n";
constexpr std::string_view kRequest = "\nPlease return all documents related to the question";
constexpr std::string_view kAnswerMarker = "The answer to the question is:";
constexpr size_t kMaxReferenceDigits = 18;  // fits int64

std::string Bracketed(int64_t reference) { return StrCat("[", reference, "]"); }

}  // namespace

void Frames::AppendUser(std::string_view text, Tokenizer::Text& to) const {
  if (parse_special_tokens_) {
    to.Append(text);
  } else {
    to.AppendLiteral(text);
  }
}

absl::StatusOr<std::vector<int32_t>> Frames::Document(const ReferencedText& document) const {
  Tokenizer::Text text;
  text.Append(StrCat("<|im_start|>", Bracketed(document.reference), ". "));
  AppendUser(document.text, text);
  text.Append(StrCat(Bracketed(document.reference), kMessageEnd));
  return tokenizer_.Encode(text);
}

absl::StatusOr<std::vector<int32_t>> Frames::TemplateHead() const {
  return tokenizer_.Encode(std::string_view("<|im_start|>user\n"));
}

absl::StatusOr<std::vector<int32_t>> Frames::Reader(absl::Span<const ReferencedText> documents,
                                                    std::string_view question,
                                                    ReaderQuestion place) const {
  Tokenizer::Text text;
  text.Append("<|im_start|>user\n");
  if (place == ReaderQuestion::kTwice) {
    AppendUser(question, text);
    text.Append("\n");
  }
  for (const ReferencedText& document : documents) {
    text.Append(StrCat(Bracketed(document.reference), ". "));
    AppendUser(document.text, text);
    text.Append("\n");
  }
  text.Append("\n");
  AppendUser(question, text);
  text.Append("<|im_end|>\n<|im_start|>assistant\n");
  return tokenizer_.Encode(text);
}

Dialogue::Dialogue(const Frames& frames, std::string_view question)
    : frames_(frames), question_(question) {
  text_.Append(kInstruction);
  AppendUser(question);
  text_.Append(kRequest);
  question_end_ = text_.utf8.size();
  text_.Append("\n<|im_end|>\n<|im_start|>");
}

void Dialogue::AppendUser(std::string_view text) {
  const size_t begin = text_.utf8.size();
  frames_.AppendUser(text, text_);
  if (!frames_.parse_special_tokens()) users_.push_back({begin, text_.utf8.size()});
}

// First or last place of `needle` at or after `from` that no user wrote; npos where there is none.
size_t Dialogue::FindFrame(std::string_view needle, size_t from, bool last) const {
  size_t found = std::string::npos;
  for (size_t at = text_.utf8.find(needle, from); at != std::string::npos;
       at = text_.utf8.find(needle, at + 1)) {
    const bool users = std::any_of(users_.begin(), users_.end(), [&](const ByteRange& r) {
      return at < r.end && r.begin < at + needle.size();
    });
    if (users) continue;
    found = at;
    if (!last) return found;
  }
  return found;
}

std::vector<ByteRange> Dialogue::RoutingSpans() const {
  // The first round includes the newline after the question's request, later rounds do not: the
  // engine's rule.
  if (round_ == 1) return {{0, question_end_ + 1}};
  std::vector<ByteRange> spans = {{0, question_end_}};
  const std::string opening = StrCat("]", kObjectRefEnd, "[");
  const size_t marker = FindFrame(opening, question_end_, /*last=*/true);
  if (marker == std::string::npos) return spans;
  const size_t begin = marker + opening.size() - 1;
  const size_t end = FindFrame(kObjectRefEnd, begin, /*last=*/false);
  if (end != std::string::npos) spans.push_back({begin, end});
  return spans;
}

absl::StatusOr<RoutingPrompt> Dialogue::Prompt() const {
  MSA_ASSIGN_OR_RETURN(Tokenizer::Encoding encoding, frames_.tokenizer().EncodeWithOffsets(text_));
  const std::vector<ByteRange> spans = RoutingSpans();
  RoutingPrompt prompt;
  for (size_t i = 0; i < encoding.ids.size(); ++i) {
    // A token belongs to the span its first byte lies in.
    const size_t begin = encoding.offsets[i].begin;
    const bool routes = std::any_of(spans.begin(), spans.end(), [&](const ByteRange& span) {
      return begin >= span.begin && begin < span.end;
    });
    if (routes) prompt.routing_rows.push_back(static_cast<int32_t>(i));
  }
  prompt.ids = std::move(encoding.ids);
  return prompt;
}

RoundEnd Dialogue::Judge(std::string_view written, bool ended) {
  if (written.find(kEndOfRetrieve) != std::string_view::npos) return RoundEnd::kFinalQuestion;
  if (ended) return RoundEnd::kReply;
  if (written.find(kObjectRefEnd) != std::string_view::npos) return RoundEnd::kReferences;
  return RoundEnd::kContinue;
}

std::vector<int64_t> Dialogue::References(std::string_view written) {
  std::vector<int64_t> references;
  for (size_t open = written.find('['); open != std::string_view::npos;
       open = written.find('[', open + 1)) {
    size_t end = open + 1;
    while (end < written.size() && absl::ascii_isdigit(written[end])) ++end;
    const size_t digits = end - open - 1;
    if (digits == 0 || end >= written.size() || written[end] != ']') continue;
    int64_t reference = 0;
    if (digits <= kMaxReferenceDigits &&
        absl::SimpleAtoi(ToAbsl(written.substr(open + 1, digits)), &reference)) {
      references.push_back(reference);
    }
  }
  return references;
}

std::vector<int64_t> Dialogue::InReadingOrder(std::vector<int64_t> references) {
  std::sort(references.begin(), references.end());
  references.erase(std::unique(references.begin(), references.end()), references.end());
  return references;
}

void Dialogue::AppendWritten(absl::Span<const int32_t> ids) {
  if (frames_.parse_special_tokens()) {
    text_.Append(frames_.tokenizer().Decode(ids, /*skip_special=*/false));
    return;
  }
  // Only tokens that are special stay so: a model that copies a document's "<|im_end|>" letter by
  // letter forges nothing.
  size_t run = 0;
  for (size_t i = 0; i <= ids.size(); ++i) {
    const bool special = i < ids.size() && frames_.tokenizer().IsSpecial(ids[i]);
    if (i < ids.size() && !special) continue;
    text_.AppendLiteral(frames_.tokenizer().Decode(ids.subspan(run, i - run), false));
    if (special) text_.Append(frames_.tokenizer().Decode(ids.subspan(i, 1), false));
    run = i + 1;
  }
}

void Dialogue::AppendReferences(absl::Span<const int64_t> references) {
  for (int64_t reference : references) text_.Append(Bracketed(reference));
  text_.Append(kObjectRefEnd);
}

void Dialogue::AppendDocuments(absl::Span<const ReferencedText> documents) {
  for (const ReferencedText& document : documents) {
    text_.Append(StrCat(Bracketed(document.reference), ". "));
    AppendUser(document.text);
    text_.Append("\n");
  }
  text_.Append(kObjectRefEnd);
  ++round_;
}

absl::StatusOr<std::vector<int32_t>> Dialogue::FinalQuestion() const {
  Tokenizer::Text text;
  text.Append("<|im_start|>The user's question is: ");
  frames_.AppendUser(question_, text);
  text.Append(StrCat("\n", kObjectRefEnd));
  return frames_.tokenizer().Encode(text);
}

std::string Dialogue::Answer(std::string_view written) {
  written = written.substr(0, written.find(kMessageEnd));
  const size_t marker = written.rfind(kAnswerMarker);
  if (marker != std::string_view::npos) written = written.substr(marker + kAnswerMarker.size());
  return std::string(absl::StripAsciiWhitespace(ToAbsl(written)));
}

bool Dialogue::IsRefusal(std::string_view answer, std::string_view refusal) {
  const std::string said = Answer(refusal);
  return !said.empty() && answer == said;
}

}  // namespace msa::compute_node

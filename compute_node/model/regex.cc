#define PCRE2_CODE_UNIT_WIDTH 8
#include "compute_node/model/regex.h"

#include <pcre2.h>

#include <array>
#include <limits>
#include <utility>

#include "common/status_macros.h"
#include "common/strings.h"
#include "compute_node/model/unicode_additions.h"

namespace msa::compute_node {
namespace {

// Oniguruma's \s: the White_Space property. PCRE2's has U+180E besides.
constexpr std::string_view kSpace =
    "\\t-\\r\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}"
    "\\x{3000}";

// Walks an expression once and writes its translation.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : rest_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (!rest_.empty()) {
      if (rest_[0] == '\\') {
        MSA_RETURN_IF_ERROR(Escape());
      } else if (in_class_) {
        MSA_RETURN_IF_ERROR(ClassCharacter());
      } else {
        if (rest_[0] == '[') OpenClass();
        Copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  void Copy(size_t size) {
    out_.append(rest_.substr(0, size));
    rest_.remove_prefix(size);
  }

  // A ']' right after the opening bracket is an ordinary character.
  void OpenClass() {
    in_class_ = true;
    size_t size = rest_.starts_with("[^") ? 2 : 1;
    if (rest_.size() > size && rest_[size] == ']') ++size;
    Copy(size - 1);  // the caller copies one more
  }

  absl::Status ClassCharacter() {
    if (rest_[0] == ']') in_class_ = false;
    if (rest_[0] == '[' && rest_.starts_with("[:")) {
      const size_t end = rest_.find(":]");
      if (end == std::string_view::npos) return Unsupported("[:");
      Copy(end + 2);
      return absl::OkStatus();
    }
    if (rest_[0] == '[') return Unsupported("a class inside a class");
    if (rest_.starts_with("&&")) return Unsupported("&& inside a class");
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (rest_.size() < 2) return Unsupported("a lone backslash");
    const char kind = rest_[1];
    switch (kind) {
      case 's':
        WriteSet(kSpace, /*negated=*/false);
        rest_.remove_prefix(2);
        return absl::OkStatus();
      case 'S':
        if (in_class_) return Unsupported("\\S inside a class");
        WriteSet(kSpace, /*negated=*/true);
        rest_.remove_prefix(2);
        return absl::OkStatus();
      case 'p':
      case 'P':
        return Property(kind == 'P');
      default:
        // \h is a hexadecimal digit in Oniguruma; \w, \b differ in marks and joiners; \C is a byte
        // in PCRE2 and would cut characters; the rest is rare.
        if (std::string_view("hHwWbBRXKGQEC").find(kind) != std::string_view::npos) {
          return Unsupported(rest_.substr(0, 2));
        }
        Copy(2);
        return absl::OkStatus();
    }
  }

  absl::Status Property(bool negated) {
    const size_t end = rest_.find('}');
    if (rest_.size() < 4 || rest_[2] != '{' || end == std::string_view::npos) {
      return Unsupported("\\p without {…}");
    }
    const std::string_view additions = UnicodeAdditions(rest_.substr(3, end - 3));
    if (additions.empty() || (negated && in_class_)) {
      if (!additions.empty()) return Unsupported("\\P{…} inside a class");
      Copy(end + 1);
      return absl::OkStatus();
    }
    WriteSet(StrCat("\\p", rest_.substr(2, end - 1), additions), negated);
    rest_.remove_prefix(end + 1);
    return absl::OkStatus();
  }

  void WriteSet(std::string_view set, bool negated) {
    if (in_class_) {
      out_.append(set);
    } else {
      out_.append(StrCat(negated ? "[^" : "[", set, "]"));
    }
  }

  absl::Status Unsupported(std::string_view what) const {
    return absl::InvalidArgumentError(
        StrCat("the expression uses ", what, ", which is not supported"));
  }

  std::string_view rest_;
  std::string out_;
  bool in_class_ = false;
};

std::string PcreMessage(int code) {
  std::array<unsigned char, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

absl::StatusOr<std::string> TranslatePattern(std::string_view pattern) {
  return Translator(pattern).Run();
}

void Regex::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }
void Regex::Free::operator()(pcre2_real_match_context_8* context) const {
  pcre2_match_context_free(context);
}
void Regex::Matcher::Free::operator()(pcre2_real_match_data_8* data) const {
  pcre2_match_data_free(data);
}

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  MSA_ASSIGN_OR_RETURN(const std::string translated, TranslatePattern(pattern));
  return CompileTranslated(translated, PCRE2_UTF | PCRE2_UCP);
}

absl::StatusOr<Regex> Regex::CompileLiteral(std::string_view text) {
  if (text.empty()) return absl::InvalidArgumentError("the pattern is empty");
  return CompileTranslated(text, PCRE2_UTF | PCRE2_LITERAL);
}

absl::StatusOr<Regex> Regex::CompileTranslated(std::string_view pattern, uint32_t options) {
  int error = 0;
  PCRE2_SIZE position = 0;
  Regex regex;
  regex.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  options, &error, &position, nullptr));
  if (regex.code_ == nullptr) {
    return absl::InvalidArgumentError(
        StrCat("the expression ", pattern, " fails at byte ", position, ": ", PcreMessage(error)));
  }
  // Without a JIT (an unusual processor) the interpreter does the same, more slowly.
  pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE);
  regex.context_.reset(pcre2_match_context_create(nullptr));
  // The default limit counts steps of one match: a megabyte of blanks would exceed it. The
  // expressions come with the model, and each step of theirs is linear.
  pcre2_set_match_limit(regex.context_.get(), std::numeric_limits<uint32_t>::max());
  return regex;
}

Regex::Matcher::Matcher(const Regex& regex)
    : regex_(regex), data_(pcre2_match_data_create(1, nullptr)) {}

absl::Status Regex::Matcher::Next(std::string_view text, size_t from, ByteRange* match) {
  // A position at which only the empty text matches separates nothing: PCRE2 is told to look on.
  uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
  while (true) {
    const int found = pcre2_match(regex_.code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                  text.size(), from, options, data_.get(), regex_.context_.get());
    // 0 means that there were groups for which the match data has no room.
    if (found >= 0) {
      const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_.get());
      *match = {bounds[0], bounds[1]};
      return absl::OkStatus();
    }
    if (found == PCRE2_ERROR_NOMATCH) {
      *match = {text.size(), text.size()};
      return absl::OkStatus();
    }
    if (found != PCRE2_ERROR_JIT_STACKLIMIT || (options & PCRE2_NO_JIT) != 0) {
      return absl::ResourceExhaustedError(
          StrCat("the tokenizer's expression gives up on this text: ", PcreMessage(found)));
    }
    options |= PCRE2_NO_JIT;  // the interpreter keeps its state on the heap
  }
}

}  // namespace msa::compute_node

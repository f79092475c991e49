// Regular expressions as tokenizer.json writes them (Oniguruma's syntax), run by PCRE2 with its
// JIT.
#ifndef MSA_COMPUTE_NODE_MODEL_REGEX_H_
#define MSA_COMPUTE_NODE_MODEL_REGEX_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute_node/model/byte_range.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace msa::compute_node {

// The same expression for PCRE2: \s, \S and \p{…} spelled out where the two differ (U+180E is no
// space; newer Unicode). INVALID_ARGUMENT for what means something else in PCRE2: \h, \w, \b,
// nested classes.
absl::StatusOr<std::string> TranslatePattern(std::string_view pattern);

// A compiled expression: immutable, shared by threads.
class Regex {
 public:
  // `pattern` in Oniguruma's syntax. INVALID_ARGUMENT with the position when it does not compile.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);
  // Matches exactly `text`.
  static absl::StatusOr<Regex> CompileLiteral(std::string_view text);

  // Finds successive matches: one thread, lives no longer than its Regex.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);

    // The first non-empty match of `text` at or after `from` into `*match`, which begins at
    // text.size() when there is none. REQUIRES: `text` is valid UTF-8 and `from` begins a character
    // of it. RESOURCE_EXHAUSTED when the expression needs more memory than PCRE2 allows.
    absl::Status Next(std::string_view text, size_t from, ByteRange* match);

   private:
    struct Free {
      void operator()(pcre2_real_match_data_8* data) const;
    };
    const Regex& regex_;
    std::unique_ptr<pcre2_real_match_data_8, Free> data_;
  };

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
    void operator()(pcre2_real_match_context_8* context) const;
  };
  static absl::StatusOr<Regex> CompileTranslated(std::string_view pattern, uint32_t options);

  std::unique_ptr<pcre2_real_code_8, Free> code_;
  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_REGEX_H_

#include "cli/metrics.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace msa::cli {
namespace {

std::vector<std::string> AnswerWords(std::string_view answer) {
  icu::UnicodeString text = icu::UnicodeString::fromUTF8(
      icu::StringPiece(answer.data(), static_cast<int32_t>(answer.size())));
  text.toLower(icu::Locale::getRoot());  // not that of who runs it: Turkish has another small I
  for (int32_t i = 0; i < text.length(); ++i) {
    if (u_isUWhiteSpace(text[i])) text.setCharAt(i, u' ');  // no-break spaces too, as in Python
  }
  std::string lower;
  text.toUTF8String(lower);
  lower.erase(std::remove_if(lower.begin(), lower.end(), absl::ascii_ispunct), lower.end());
  std::vector<std::string> words = absl::StrSplit(lower, ' ', absl::SkipEmpty());
  words.erase(std::remove_if(words.begin(), words.end(),
                             [](const std::string& word) {
                               return word == "a" || word == "an" || word == "the";
                             }),
              words.end());
  return words;
}

double WordF1(const std::vector<std::string>& answer, const std::vector<std::string>& gold) {
  // Without words on either side there is nothing to overlap: right only if both are empty.
  if (answer.empty() || gold.empty()) return answer.empty() && gold.empty() ? 1 : 0;
  std::map<std::string, int> left;
  for (const std::string& word : gold) ++left[word];
  double common = 0;
  for (const std::string& word : answer) {
    const auto found = left.find(word);
    if (found != left.end() && found->second-- > 0) ++common;
  }
  if (common == 0) return 0;
  const double precision = common / static_cast<double>(answer.size());
  const double recall = common / static_cast<double>(gold.size());
  return 2 * precision * recall / (precision + recall);
}

}  // namespace

std::string NormalizeAnswer(std::string_view answer) {
  return absl::StrJoin(AnswerWords(answer), " ");
}

double ExactMatch(std::string_view answer, const std::vector<std::string>& gold) {
  const std::string normal = NormalizeAnswer(answer);
  return std::any_of(gold.begin(), gold.end(),
                     [&](const std::string& g) { return NormalizeAnswer(g) == normal; });
}

double F1(std::string_view answer, const std::vector<std::string>& gold) {
  const std::vector<std::string> words = AnswerWords(answer);
  double best = 0;
  for (const std::string& g : gold) best = std::max(best, WordF1(words, AnswerWords(g)));
  return best;
}

double RecallAt(size_t k, const std::vector<NamedDocument>& ranked,
                const std::vector<std::string>& gold) {
  const std::set<std::string> wanted(gold.begin(), gold.end());
  if (wanted.empty()) return 0;
  std::set<std::string> found;
  for (size_t i = 0; i < ranked.size() && i < k; ++i) {
    if (wanted.contains(ranked[i].id)) {
      found.insert(ranked[i].id);
    } else if (wanted.contains(ranked[i].title)) {
      found.insert(ranked[i].title);
    }
  }
  return static_cast<double>(found.size()) / static_cast<double>(wanted.size());
}

double Percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(p * static_cast<double>(values.size()));
  const size_t index = rank < 1 ? 0 : static_cast<size_t>(rank) - 1;
  return values[std::min(index, values.size() - 1)];
}

Json LatencyJson(const std::vector<double>& values_ms) {
  const double sum = std::accumulate(values_ms.begin(), values_ms.end(), 0.0);
  const double count = static_cast<double>(values_ms.size());
  return {{"count", values_ms.size()},          {"mean", count > 0 ? sum / count : 0},
          {"p50", Percentile(values_ms, 0.5)},  {"p90", Percentile(values_ms, 0.9)},
          {"p99", Percentile(values_ms, 0.99)}, {"max", Percentile(values_ms, 1)}};
}

}  // namespace msa::cli

// How answers and retrieval are scored, and how latencies are summed up.
#ifndef MSA_CLI_METRICS_H_
#define MSA_CLI_METRICS_H_

#include <string>
#include <string_view>
#include <vector>

#include "cli/json.h"

namespace msa::cli {

// As SQuAD's evaluation: lower case, no ASCII punctuation, no articles (a, an, the), one space
// between words.
std::string NormalizeAnswer(std::string_view answer);

// The best over the gold answers, 0 … 1.
double ExactMatch(std::string_view answer, const std::vector<std::string>& gold);
// Harmonic mean of precision and recall of the normalised words.
double F1(std::string_view answer, const std::vector<std::string>& gold);

// One document as a question's gold list may name it.
struct NamedDocument {
  std::string id;
  std::string title;
};
// Share of `gold` (ids or titles, each counted once) among the first k documents.
double RecallAt(size_t k, const std::vector<NamedDocument>& ranked,
                const std::vector<std::string>& gold);

// The value that a share p of the values is at or below (nearest rank); 0 for none.
double Percentile(std::vector<double> values, double p);
// {"count","mean","p50","p90","p99","max"}.
Json LatencyJson(const std::vector<double>& values_ms);

}  // namespace msa::cli

#endif  // MSA_CLI_METRICS_H_

// Question sets, as JSON lines {"id","question","answers":[…],"supporting_titles_or_ids":[…]}, and
// a pool of workers that asks them.
#ifndef MSA_CLI_QUESTIONS_H_
#define MSA_CLI_QUESTIONS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace msa::cli {

struct Question {
  std::string id;
  std::string text;
  std::vector<std::string> answers;  // empty: none is known
  std::vector<std::string> gold;     // ids or titles of the documents that hold the answer
};

// At most `limit` (0: all). Answers may be a list, one string, SQuAD's {"text":[…]}, or under
// "answer"; empty ones are none; gold a list or one string; numbers are taken as written.
// INVALID_ARGUMENT with file and line for a malformed one.
absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path, int64_t limit);

// Calls work(i) for i in [0, count) from `workers` threads. Stops at the first error, which is
// returned.
absl::Status ForEachConcurrently(size_t count, int workers,
                                 const std::function<absl::Status(size_t)>& work);

// The name of a bank nobody else has: prefix and 8 random hex digits.
std::string UniqueBankName(const std::string& prefix);

}  // namespace msa::cli

#endif  // MSA_CLI_QUESTIONS_H_

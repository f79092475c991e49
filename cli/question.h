// What `ask` and `retrieve` share: reading a question, printing what it routed to.
#ifndef MSA_CLI_QUESTION_H_
#define MSA_CLI_QUESTION_H_

#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/compute_node.h"

namespace msa::cli {

// `argument`, or all of `in` when it is "-". INVALID_ARGUMENT over kMaxQuestionBytes.
absl::StatusOr<std::string> ReadQuestion(const std::string& argument, std::istream& in);

// "  0.612  15 layers  africa/ke:Transportation · Kenya — Transportation [0–431]"
void PrintRouted(const rpc::RoutedDocument& document, std::ostream& out);
void PrintMissing(const std::vector<std::string>& shards, std::ostream& err);

}  // namespace msa::cli

#endif  // MSA_CLI_QUESTION_H_

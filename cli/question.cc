#include "cli/question.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/limits.h"
#include "common/strings.h"

namespace msa::cli {

absl::StatusOr<std::string> ReadQuestion(const std::string& argument, std::istream& in) {
  if (argument != "-") return argument;
  std::string question(kMaxQuestionBytes + 1, '\0');
  in.read(question.data(), static_cast<std::streamsize>(question.size()));
  question.resize(static_cast<size_t>(in.gcount()));
  if (in.bad()) return absl::DataLossError("standard input cannot be read: it is no file of text");
  if (question.size() > kMaxQuestionBytes) {
    return absl::InvalidArgumentError(
        StrCat("the question is over the limit of ", kMaxQuestionBytes, " bytes"));
  }
  while (!question.empty() && question.back() == '\n') question.pop_back();
  return question;
}

void PrintRouted(const rpc::RoutedDocument& document, std::ostream& out) {
  out << absl::StrFormat(
      "  %7.4f  %2d layers  %s", document.score, document.layer_votes,
      document.document_id.empty() ? "(deleted meanwhile)" : document.document_id);
  if (!document.title.empty()) out << " · " << document.title;
  out << absl::StrFormat(" [bytes %d–%d]\n", document.span.begin, document.span.end);
}

void PrintMissing(const std::vector<std::string>& shards, std::ostream& err) {
  if (shards.empty()) return;
  err << "not searched, since they do not answer: " << absl::StrJoin(shards, ", ") << "\n";
}

}  // namespace msa::cli

// Question sets as JSON lines. What is read is written as JSON and read the same.
#include "cli/questions.h"

#include <string>
#include <vector>

#include "cli/json.h"
#include "common/check.h"
#include "tests/fuzz/target.h"

namespace msa::cli {
namespace {

void Try(fuzz::InputFile& file, std::string_view bytes) {
  file.Write(bytes);
  const auto questions = ReadQuestions(file.path(), 0);
  if (!questions.ok()) return fuzz::CheckRefusal(questions.status());
  std::string written;
  for (const Question& question : *questions) {
    written += Dump({{"id", question.id},
                     {"question", question.text},
                     {"answers", question.answers},
                     {"supporting_titles_or_ids", question.gold}}) +
               "\n";
  }
  file.Write(written);
  const auto again = ReadQuestions(file.path(), 0);
  MSA_CHECK(again.ok() && again->size() == questions->size());
  for (size_t i = 0; i < again->size(); ++i) {
    const Question &a = (*questions)[i], &b = (*again)[i];
    MSA_CHECK(a.id == b.id && a.text == b.text && a.answers == b.answers && a.gold == b.gold);
  }
}

}  // namespace
}  // namespace msa::cli

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static msa::fuzz::InputFile file("questions.jsonl");
  msa::cli::Try(file, msa::fuzz::View(data, size));
  return 0;
}

#include "cli/questions.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "cli/json.h"
#include "cli/line_reader.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

bool TakeStrings(const Json& json, const char* key, std::vector<std::string>* values) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return true;
  if (!found->is_array()) return false;
  for (const Json& value : *found) {
    if (!value.is_string()) return false;
    values->push_back(value.get<std::string>());
  }
  return true;
}

absl::StatusOr<Question> ParseQuestion(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("question") || !json["question"].is_string()) {
    return absl::InvalidArgumentError("an object with a string \"question\" is expected");
  }
  Question question;
  question.text = json["question"].get<std::string>();
  if (json.contains("id")) {
    question.id = json["id"].is_string() ? json["id"].get<std::string>() : Dump(json["id"]);
  }
  if (!TakeStrings(json, "answers", &question.answers) ||
      !TakeStrings(json, "supporting_titles_or_ids", &question.gold)) {
    return absl::InvalidArgumentError(
        "\"answers\" and \"supporting_titles_or_ids\" must be lists of strings");
  }
  return question;
}

}  // namespace

absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path, int64_t limit) {
  MSA_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, LineReader::Open(path));
  std::vector<Question> questions;
  std::string line;
  while ((limit == 0 || std::cmp_less(questions.size(), limit)) && lines->Next(&line)) {
    if (line.empty()) continue;
    absl::StatusOr<Question> question = ParseQuestion(line);
    if (!question.ok()) {
      return absl::InvalidArgumentError(
          StrCat(path, ":", lines->line_number(), ": ", question.status().message()));
    }
    questions.push_back(*std::move(question));
  }
  MSA_RETURN_IF_ERROR(lines->status());
  return questions;
}

absl::Status ForEachConcurrently(size_t count, int workers,
                                 const std::function<absl::Status(size_t)>& work) {
  std::atomic<size_t> next{0};
  absl::Mutex mu;
  absl::Status first_error;
  const auto run = [&] {
    for (size_t i = next++; i < count; i = next++) {
      const absl::Status status = work(i);
      if (status.ok()) continue;
      next = count;
      absl::MutexLock lock(&mu);
      first_error.Update(status);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < std::max(1, workers); ++i) threads.emplace_back(run);
  for (std::thread& thread : threads) thread.join();
  return first_error;
}

std::string UniqueBankName(const std::string& prefix) {
  std::random_device device;
  return absl::StrFormat("%s%08x", prefix, device());
}

}  // namespace msa::cli

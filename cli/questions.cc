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

// Strings, and numbers as they are written, of a list or alone; also SQuAD's {"text": […]}.
bool TakeStrings(const Json& json, std::vector<std::string>* values) {
  if (json.is_null()) return true;
  if (json.is_object()) return json.contains("text") && TakeStrings(json["text"], values);
  if (json.is_string() || json.is_number()) {
    values->push_back(json.is_string() ? json.get<std::string>() : Dump(json));
    return true;
  }
  if (!json.is_array()) return false;
  return std::all_of(json.begin(), json.end(), [&](const Json& value) {
    return (value.is_string() || value.is_number()) && TakeStrings(value, values);
  });
}

absl::StatusOr<Question> ParseQuestion(const std::string& line) {
  MSA_ASSIGN_OR_RETURN(const Json json, ParseLine(line));
  if (!json.is_object() || !json.contains("question") || !json["question"].is_string()) {
    return absl::InvalidArgumentError("an object with a string \"question\" is expected");
  }
  Question question;
  question.text = json["question"].get<std::string>();
  if (json.contains("id")) {
    question.id = json["id"].is_string() ? json["id"].get<std::string>() : Dump(json["id"]);
  }
  if (json.contains("answers") && !TakeStrings(json["answers"], &question.answers)) {
    return absl::InvalidArgumentError("\"answers\" must be a list of strings, or one");
  }
  // Some sets have one answer under this name; without it the question would count as one that
  // nothing answers.
  if ((!json.contains("answers") || json["answers"].is_null()) && json.contains("answer") &&
      !TakeStrings(json["answer"], &question.answers)) {
    return absl::InvalidArgumentError("\"answer\" must be a string, or a list of them");
  }
  // As others say that nothing answers it.
  std::erase_if(question.answers, [](const std::string& answer) {
    return answer.find_first_not_of(" \t\r\n") == std::string::npos;
  });
  const auto gold = json.find("supporting_titles_or_ids");
  if (gold != json.end() && (gold->is_object() || !TakeStrings(*gold, &question.gold))) {
    return absl::InvalidArgumentError(
        "\"supporting_titles_or_ids\" must be a list of strings, or one");
  }
  return question;
}

}  // namespace

absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path, int64_t limit) {
  MSA_ASSIGN_OR_RETURN(const std::unique_ptr<LineReader> lines, LineReader::Open(path));
  std::vector<Question> questions;
  std::string line;
  while ((limit == 0 || std::cmp_less(questions.size(), limit)) && lines->Next(&line)) {
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
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

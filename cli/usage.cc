#include "cli/usage.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>

#include "absl/strings/str_split.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

// Letters to insert, delete or replace to make `b` of `a` (Levenshtein).
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, replaced});
    }
  }
  return row.back();
}

bool HasWordsOf(std::string_view candidate, std::string_view name) {
  const std::vector<std::string> words = absl::StrSplit(ToAbsl(candidate), '-', absl::SkipEmpty());
  const std::vector<std::string> wanted = absl::StrSplit(ToAbsl(name), '-', absl::SkipEmpty());
  return !wanted.empty() && std::all_of(wanted.begin(), wanted.end(), [&](const auto& word) {
    return std::find(words.begin(), words.end(), word) != words.end();
  });
}

std::vector<std::string> Flags(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

std::vector<std::string> Verbs(const CLI::App& app) {
  std::vector<std::string> verbs;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    verbs.push_back(verb->get_name());
  }
  return verbs;
}

bool IsFlag(const std::string& argument) { return argument.size() > 1 && argument[0] == '-'; }

std::string Meant(const std::string& nearest) {
  return nearest.empty() ? "" : StrCat("; did you mean ", nearest, "?");
}

// The first that looks like a flag, else the first.
std::string Culprit(const std::vector<std::string>& leftovers) {
  const auto flag = std::find_if(leftovers.begin(), leftovers.end(), IsFlag);
  const std::string& culprit = flag != leftovers.end() ? *flag : leftovers.front();
  return culprit.substr(0, IsFlag(culprit) ? culprit.find('=') : 80);
}

// In place of what CLI11 says about arguments it has no place for. `error` says the rest well.
std::string Fault(const CLI::App& app, const CLI::App& meant, const CLI::Error& error) {
  const std::vector<std::string> before = app.remaining(false);
  if (&app != &meant && !before.empty() && IsFlag(Culprit(before))) {
    return StrCat("flags come after the verb: ", app.get_name(), " ", meant.get_name(), " ",
                  Culprit(before), " …");
  }
  const std::vector<std::string> leftovers = app.remaining(true);
  if (leftovers.empty()) return error.what();
  const std::string culprit = Culprit(leftovers);
  const std::vector<std::string> verbs = Verbs(meant);
  if (const std::string& first = leftovers.front(); !verbs.empty() && !IsFlag(first)) {
    return StrCat("there is no verb '", first.substr(0, 80), "'", Meant(Nearest(first, verbs)));
  }
  if (!verbs.empty()) return StrCat("a verb is expected before ", culprit);
  if (!IsFlag(culprit)) {
    return StrCat("'", culprit, "' is one argument too many; put what has spaces in quotes");
  }
  return StrCat("there is no flag ", culprit, Meant(Nearest(culprit, Flags(meant))));
}

}  // namespace

std::string Nearest(std::string_view name, const std::vector<std::string>& candidates) {
  for (const std::string& candidate : candidates) {
    if (HasWordsOf(candidate, name)) return candidate;
  }
  std::string nearest;
  size_t least = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(name, candidate);
    if (distance >= least || distance >= candidate.size()) continue;
    least = distance;
    nearest = candidate;
  }
  return nearest;
}

std::string Usage(const CLI::App* app, const CLI::Error& error) {
  const CLI::App* meant = app;
  for (auto parsed = app->get_subcommands(); !parsed.empty(); parsed = meant->get_subcommands()) {
    meant = parsed.front();
  }
  std::string command;
  for (const CLI::App* at = meant; at != nullptr; at = at->get_parent()) {
    command = at->get_name() + (command.empty() ? "" : " ") + command;
  }
  std::string text = StrCat(command, ": ", Fault(*app, *meant, error), "\n");
  if (const std::vector<std::string> verbs = Verbs(*meant); !verbs.empty()) {
    text += "Verbs:";
    for (const std::string& verb : verbs) text += " " + verb;
    text += "\n";
  }
  return text + "More: " + command + " --help\n";
}

}  // namespace msa::cli

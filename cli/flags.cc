#include "cli/flags.h"

#include <CLI/CLI.hpp>
#include <cctype>
#include <utility>

#include "absl/strings/str_cat.h"

namespace msa::cli {
namespace {

template <typename T>
CLI::Option* AddTo(CLI::App* app, std::string_view flag, T* value, std::string_view help) {
  CLI::Option* option = app->add_option(std::string(flag), *value, std::string(help));
  option->envname(EnvironmentTwin(flag));
  // An empty default would be printed as an empty pair of brackets.
  if constexpr (requires { value->empty(); }) {
    if (value->empty()) return option;
  }
  return option->capture_default_str();
}

template <typename T>
void AddBoundedTo(CLI::App* app, std::string_view flag, T* value, T least, T most,
                  std::string_view help) {
  const auto within = [least, most](const std::string& text) -> std::string {
    T number;
    if (!CLI::detail::lexical_cast(text, number)) return "";  // said better by the conversion
    if (number >= least && number <= most) return "";         // NaN is not
    return absl::StrCat(text, " is not allowed: use ", least, " to ", most);
  };
  AddTo(app, flag, value, help)->check(within);
}

}  // namespace

std::string EnvironmentTwin(std::string_view flag) {
  std::string twin = "MSA_";
  flag = flag.substr(0, flag.find(','));  // of several names the first
  for (char c : flag.substr(flag.find_first_not_of('-'))) {
    twin += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return twin;
}

void FlagSet::Add(std::string_view flag, std::string* value, std::string_view help) {
  AddTo(app_, flag, value, help);
}
void FlagSet::Add(std::string_view flag, int32_t* value, std::string_view help) {
  AddTo(app_, flag, value, help);
}
void FlagSet::Add(std::string_view flag, uint64_t* value, std::string_view help) {
  AddTo(app_, flag, value, help);
}
void FlagSet::Add(std::string_view flag, double* value, std::string_view help) {
  AddTo(app_, flag, value, help);
}
void FlagSet::Add(std::string_view flag, bool* value, std::string_view help) {
  app_->add_flag(std::string(flag), *value, std::string(help))->envname(EnvironmentTwin(flag));
}
void FlagSet::Add(std::string_view flag, std::optional<std::string>* value, std::string_view help) {
  app_->add_option(std::string(flag), *value, std::string(help))->envname(EnvironmentTwin(flag));
}
void FlagSet::Add(std::string_view flag, std::optional<int32_t>* value, std::string_view help) {
  app_->add_option(std::string(flag), *value, std::string(help))->envname(EnvironmentTwin(flag));
}
void FlagSet::Add(std::string_view flag, std::vector<int32_t>* value, std::string_view help) {
  AddTo(app_, flag, value, help)->delimiter(',');
}
void FlagSet::Add(std::string_view flag, std::vector<std::string>* value, std::string_view help) {
  // One argument a use, so that a positional after it is not swallowed.
  AddTo(app_, flag, value, help)->allow_extra_args(false);
}

void FlagSet::AddRequired(std::string_view flag, std::string* value, std::string_view help) {
  AddTo(app_, flag, value, help)->required();
}
void FlagSet::AddBounded(std::string_view flag, int32_t* value, int32_t least, int32_t most,
                         std::string_view help) {
  AddBoundedTo(app_, flag, value, least, most, help);
}
void FlagSet::AddBounded(std::string_view flag, double* value, double least, double most,
                         std::string_view help) {
  AddBoundedTo(app_, flag, value, least, most, help);
}
void FlagSet::AddChoice(std::string_view flag, std::string* value, std::vector<std::string> choices,
                        std::string_view help) {
  AddTo(app_, flag, value, help)->check(CLI::IsMember(std::move(choices)));
}
void FlagSet::AddChoice(std::string_view flag, std::optional<std::string>* value,
                        std::vector<std::string> choices, std::string_view help) {
  app_->add_option(std::string(flag), *value, std::string(help))
      ->envname(EnvironmentTwin(flag))
      ->check(CLI::IsMember(std::move(choices)));
}

void FlagSet::Positional(std::string_view name, std::string* value, std::string_view help) {
  app_->add_option(std::string(name), *value, std::string(help))->required();
}
void FlagSet::Positional(std::string_view name, std::vector<std::string>* values,
                         std::string_view help) {
  app_->add_option(std::string(name), *values, std::string(help))->required();
}

}  // namespace msa::cli

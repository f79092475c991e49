// Flags of a verb. Every flag has an environment twin: --data-dir is MSA_DATA_DIR; the flag wins.
// Keeps CLI11 out of the verbs, whose headers cost seconds a file.
#ifndef MSA_CLI_FLAGS_H_
#define MSA_CLI_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace msa::cli {

// "--data-dir" → "MSA_DATA_DIR".
std::string EnvironmentTwin(std::string_view flag);

// Adds to one (sub)command. The values must outlive the parse; what they hold before is the
// default, shown in the help text.
class FlagSet {
 public:
  explicit FlagSet(CLI::App* app) : app_(app) {}

  void Add(std::string_view flag, std::string* value, std::string_view help);
  void Add(std::string_view flag, int32_t* value, std::string_view help);
  void Add(std::string_view flag, uint64_t* value, std::string_view help);
  void Add(std::string_view flag, double* value, std::string_view help);
  void Add(std::string_view flag, bool* value, std::string_view help);  // takes no argument
  void Add(std::string_view flag, std::optional<std::string>* value, std::string_view help);
  void Add(std::string_view flag, std::optional<int32_t>* value, std::string_view help);
  void Add(std::string_view flag, std::vector<int32_t>* value, std::string_view help);  // 1,5,16
  void Add(std::string_view flag, std::vector<std::string>* value, std::string_view help);

  // As Add, and the parse fails when neither flag nor environment gives it.
  void AddRequired(std::string_view flag, std::string* value, std::string_view help);
  // As Add, and what is not within least … most is refused, from the environment too.
  void AddBounded(std::string_view flag, int32_t* value, int32_t least, int32_t most,
                  std::string_view help);
  void AddBounded(std::string_view flag, double* value, double least, double most,
                  std::string_view help);
  // As Add, and other values are refused with the list.
  void AddChoice(std::string_view flag, std::string* value, std::vector<std::string> choices,
                 std::string_view help);
  void AddChoice(std::string_view flag, std::optional<std::string>* value,
                 std::vector<std::string> choices, std::string_view help);

  // Arguments without a flag; required.
  void Positional(std::string_view name, std::string* value, std::string_view help);
  void Positional(std::string_view name, std::vector<std::string>* values, std::string_view help);

 private:
  CLI::App* app_;
};

}  // namespace msa::cli

#endif  // MSA_CLI_FLAGS_H_

#include "cli/cli.h"

#include <CLI/CLI.hpp>
#include <map>
#include <ostream>
#include <string>

#include "cli/client_verbs.h"
#include "cli/exit_code.h"
#include "cli/usage.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

CLI::App* FindSubcommand(CLI::App& app, const std::string& name) {
  const auto found = app.get_subcommands([&](CLI::App* sub) { return sub->get_name() == name; });
  return found.empty() ? nullptr : found.front();
}

// "bank create" hangs below "bank", which is made when its first verb comes.
CLI::App* AddSubcommand(CLI::App& app, std::string_view name, std::string_view help) {
  const size_t space = name.find(' ');
  if (space == std::string_view::npos) {
    return app.add_subcommand(std::string(name), std::string(help));
  }
  const std::string group(name.substr(0, space));
  CLI::App* parent = FindSubcommand(app, group);
  if (parent == nullptr) {
    parent = app.add_subcommand(group, StrCat("Verbs of a ", group));
    parent->require_subcommand(1);
  }
  return parent->add_subcommand(std::string(name.substr(space + 1)), std::string(help));
}

void PrintError(std::ostream& err, std::string_view verb, const absl::Status& status) {
  err << "msa " << verb << ": " << absl::StatusCodeToString(status.code()) << ": "
      << status.message() << "\n";
}

}  // namespace

std::vector<std::unique_ptr<Verb>> ClientVerbs(const Connector& connect,
                                               const SyntheticServer& synthetic) {
  std::vector<std::unique_ptr<Verb>> verbs;
  for (auto make : {MakeAddVerb, MakeRmVerb, MakeLsVerb, MakeGetVerb, MakeAskVerb, MakeRetrieveVerb,
                    MakeModelVerb, MakeStatsVerb, MakeEvalVerb, MakeBankCreateVerb, MakeBankLsVerb,
                    MakeBankRmVerb, MakeBankCalibrateVerb, MakeBackupCreateVerb, MakeBackupLsVerb,
                    MakeBackupRmVerb}) {
    verbs.push_back(make(connect));
  }
  verbs.push_back(MakeBenchVerb(connect, synthetic));
  return verbs;
}

int RunCommandLine(const std::vector<std::unique_ptr<Verb>>& verbs, int argc,
                   const char* const* argv, Io& io) {
  CLI::App app("msa: a memory service for Memory Sparse Attention models", "msa");
  app.set_version_flag("--version", "msa " MSA_VERSION);
  app.require_subcommand(1);
  app.failure_message(Usage);
  app.footer(std::string(ExitCodeHelp()));
  std::map<const CLI::App*, Verb*> by_command;
  for (const std::unique_ptr<Verb>& verb : verbs) {
    CLI::App* command = AddSubcommand(app, verb->name(), verb->help());
    command->footer(std::string(ExitCodeHelp()));
    FlagSet flags(command);
    verb->AddFlags(flags);
    by_command[command] = verb.get();
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, io.out, io.err);
    return code == 0 ? kExitOk : kExitUsage;
  }
  for (const auto& [command, verb] : by_command) {
    if (!command->parsed()) continue;
    absl::Status status = verb->Run(io);
    // A verb whose output is refused may end its call for that: the cause is said, not the end.
    if (!io.out.flush() && (status.ok() || absl::IsCancelled(status))) {
      status = absl::DataLossError(
          "not all of the output could be written: is there room where it goes?");
    }
    if (!status.ok()) PrintError(io.err, verb->name(), status);
    return ExitCode(status);
  }
  return kExitUsage;
}

}  // namespace msa::cli

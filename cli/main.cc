// The `msa` binary. Verbs are in a file each; cli.h runs them.
#include <unistd.h>

#include <iostream>
#include <utility>

#include "cli/cli.h"
#include "cli/connect.h"
#include "cli/key_verbs.h"
#include "cli/server_verbs.h"
#include "cli/standard_input.h"
#include "cli/synthetic_server.h"

int main(int argc, char** argv) {
  using namespace msa::cli;
  std::vector<std::unique_ptr<Verb>> verbs;
  for (auto make : {MakeServeVerb, MakeMemoryNodeVerb, MakeRouterVerb, MakeComputeNodeVerb}) {
    verbs.push_back(make());
  }
  for (std::unique_ptr<Verb>& verb : ClientVerbs(GrpcConnector(), MakeSyntheticServer))
    verbs.push_back(std::move(verb));
  for (std::unique_ptr<Verb>& verb : KeyVerbs()) verbs.push_back(std::move(verb));
  verbs.push_back(MakeHealthVerb());
  verbs.push_back(MakeVerifyVerb());
  StandardInput input(STDIN_FILENO);
  std::istream in(&input);
  Io io{in, std::cout, std::cerr, isatty(STDOUT_FILENO) == 1, isatty(STDERR_FILENO) == 1, [&input] {
          input.Stop();
        }};
  return RunCommandLine(verbs, argc, argv, io);
}

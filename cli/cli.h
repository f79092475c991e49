// The command line: finds the verb, parses its flags, runs it, says what went wrong.
#ifndef MSA_CLI_CLI_H_
#define MSA_CLI_CLI_H_

#include <memory>
#include <vector>

#include "cli/bench_verb.h"
#include "cli/verb.h"

namespace msa::cli {

// The verbs that talk to a server, over `connect`.
// `synthetic`: what `bench` measures when asked for no server (bench_verb.h), may be null.
std::vector<std::unique_ptr<Verb>> ClientVerbs(const Connector& connect,
                                               const SyntheticServer& synthetic = nullptr);

// Gives the process's exit code (exit_code.h).
int RunCommandLine(const std::vector<std::unique_ptr<Verb>>& verbs, int argc,
                   const char* const* argv, Io& io);

}  // namespace msa::cli

#endif  // MSA_CLI_CLI_H_

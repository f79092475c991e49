// msa key create|ls|rm: the file of a server's API keys. They talk to no server.
#ifndef MSA_CLI_KEY_VERBS_H_
#define MSA_CLI_KEY_VERBS_H_

#include <memory>
#include <vector>

#include "cli/verb.h"

namespace msa::cli {

std::vector<std::unique_ptr<Verb>> KeyVerbs();

}  // namespace msa::cli

#endif  // MSA_CLI_KEY_VERBS_H_

// The verbs that are servers, and `verify`, which plays all their roles in memory. One file each.
#ifndef MSA_CLI_SERVER_VERBS_H_
#define MSA_CLI_SERVER_VERBS_H_

#include <memory>

#include "cli/verb.h"

namespace msa::cli {

std::unique_ptr<Verb> MakeServeVerb();
std::unique_ptr<Verb> MakeMemoryNodeVerb();
std::unique_ptr<Verb> MakeRouterVerb();
std::unique_ptr<Verb> MakeComputeNodeVerb();
std::unique_ptr<Verb> MakeVerifyVerb();

}  // namespace msa::cli

#endif  // MSA_CLI_SERVER_VERBS_H_

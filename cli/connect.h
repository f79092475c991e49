// The Connector over gRPC, and the verb that needs nothing else.
#ifndef MSA_CLI_CONNECT_H_
#define MSA_CLI_CONNECT_H_

#include <memory>

#include "cli/verb.h"

namespace msa::cli {

Connector GrpcConnector();

// `health`
std::unique_ptr<Verb> MakeHealthVerb();

}  // namespace msa::cli

#endif  // MSA_CLI_CONNECT_H_

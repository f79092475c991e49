// The Connector over gRPC.
#ifndef MSA_CLI_CONNECT_H_
#define MSA_CLI_CONNECT_H_

#include "cli/verb.h"

namespace msa::cli {

Connector GrpcConnector();

}  // namespace msa::cli

#endif  // MSA_CLI_CONNECT_H_

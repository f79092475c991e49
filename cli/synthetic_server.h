// The whole service in this process, over a made-up bank and a model of random weights: what `msa
// bench --synthetic-model` measures. The path is `serve`'s, but for the network.
#ifndef MSA_CLI_SYNTHETIC_SERVER_H_
#define MSA_CLI_SYNTHETIC_SERVER_H_

#include "cli/bench_verb.h"

namespace msa::cli {

// Takes as long as the keys take to be made up and loaded. The bank is "default".
absl::StatusOr<Connection> MakeSyntheticServer(const SyntheticOptions& options);

}  // namespace msa::cli

#endif  // MSA_CLI_SYNTHETIC_SERVER_H_

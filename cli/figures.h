// What a server tells Prometheus beside its calls, read from the parts it is made of.
#ifndef MSA_CLI_FIGURES_H_
#define MSA_CLI_FIGURES_H_

#include <vector>

#include "compute_node/node.h"
#include "memory_node/shard.h"
#include "monitoring/figure.h"

namespace msa::cli {

// Of each bank of a shard in this process what `msa stats` tells; of the store once, and what
// RocksDB says of itself. Banks that are deleted meanwhile are left out.
std::vector<monitoring::Figure> FiguresOf(memory_node::LocalShard& shard);
// Of this process's nodes together: questions, and the caches of blocks.
std::vector<monitoring::Figure> FiguresOf(const std::vector<compute_node::Node*>& nodes);

}  // namespace msa::cli

#endif  // MSA_CLI_FIGURES_H_

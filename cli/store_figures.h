// What a memory node's store tells Prometheus, named after RocksDB's properties.
#ifndef MSA_CLI_STORE_FIGURES_H_
#define MSA_CLI_STORE_FIGURES_H_

#include <vector>

#include "memory_node/document_store.h"
#include "monitoring/figure.h"

namespace msa::cli {

std::vector<monitoring::Figure> FiguresOf(const memory_node::StoreUsage& usage);

}  // namespace msa::cli

#endif  // MSA_CLI_STORE_FIGURES_H_

// Checks that many of LocalShard's methods begin with. Stateless.
#ifndef MSA_MEMORY_NODE_REQUEST_CHECKS_H_
#define MSA_MEMORY_NODE_REQUEST_CHECKS_H_

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "common/strings.h"
#include "rpc/types.h"

namespace msa::memory_node {

// INVALID_ARGUMENT unless least <= value <= most.
inline absl::Status CheckRange(std::string_view what, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(what, " is ", value, "; ", least, " to ", most, " are allowed"));
}

// Place of a decoder layer among the bank's router layers; -1: it is none.
inline int LayerIndex(const rpc::BankSpec& spec, int32_t layer) {
  const auto it = std::lower_bound(spec.router_layers.begin(), spec.router_layers.end(), layer);
  if (it == spec.router_layers.end() || *it != layer) return -1;
  return static_cast<int>(it - spec.router_layers.begin());
}

inline absl::Status UnknownLayer(const rpc::BankSpec& spec, int32_t layer) {
  return absl::InvalidArgumentError(
      StrCat("layer ", layer, " keeps no blocks in bank '", spec.name, "'"));
}

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_REQUEST_CHECKS_H_

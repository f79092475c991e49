// Models of a checkpoint's true shapes with random weights: what they answer means nothing, how
// long they take is the checkpoint's.
#ifndef MSA_COMPUTE_NODE_MODEL_SYNTHETIC_MODEL_H_
#define MSA_COMPUTE_NODE_MODEL_SYNTHETIC_MODEL_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "compute_node/model/config.h"
#include "compute_node/model/weights.h"

namespace msa::compute_node {

// "msa-4b" (36 layers, 18 of them routing, 32/8 heads of 128, P 64) or "msa-tiny", which a test can
// afford; INVALID_ARGUMENT that lists them otherwise.
absl::StatusOr<ModelConfig> SyntheticConfig(std::string_view name);

// RESOURCE_EXHAUSTED when the backend's memory is full. Takes 6 bytes of the processor's memory for
// each weight of the largest matrix.
absl::StatusOr<ModelWeights> SyntheticWeights(const ModelConfig& config,
                                              const kernels::Backend& backend,
                                              kernels::WeightFormat format);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_SYNTHETIC_MODEL_H_

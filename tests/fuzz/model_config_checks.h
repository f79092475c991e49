// What must hold of a model's configuration that was accepted: nothing is computed with other.
#ifndef MSA_TESTS_FUZZ_MODEL_CONFIG_CHECKS_H_
#define MSA_TESTS_FUZZ_MODEL_CONFIG_CHECKS_H_

#include <algorithm>
#include <cmath>
#include <functional>

#include "common/check.h"
#include "compute_node/model/config.h"

namespace msa::compute_node {

inline void CheckMemory(const ModelConfig& config) {
  const MemoryConfig& memory = config.memory;
  const auto& layers = memory.router_layers;
  MSA_CHECK(!layers.empty() && layers.front() >= 0 && layers.back() < config.num_layers);
  MSA_CHECK(std::is_sorted(layers.begin(), layers.end(), std::less_equal<>()));
  MSA_CHECK(memory.routing_chunk_tokens > 0 && memory.content_chunk_tokens > 0);
  MSA_CHECK(memory.top_k > 0 && memory.part_tokens > 0);
  MSA_CHECK(std::isfinite(memory.refusal_bias));
  MSA_CHECK(std::isfinite(config.Routing().scale));
}

inline void CheckConfig(const ModelConfig& config) {
  MSA_CHECK(config.num_q_heads % config.num_kv_heads == 0 && config.head_dim % 2 == 0);
  MSA_CHECK(config.rms_norm_eps > 0);
  CheckMemory(config);
  if (config.head_dim > 4096) return;  // milliseconds, and no other numbers
  for (const float frequency : config.InverseFrequencies()) MSA_CHECK(std::isfinite(frequency));
}

}  // namespace msa::compute_node

#endif  // MSA_TESTS_FUZZ_MODEL_CONFIG_CHECKS_H_

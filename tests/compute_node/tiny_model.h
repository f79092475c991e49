// The smallest golden checkpoint, for tests that want a node and no particular model.
#ifndef MSA_TESTS_COMPUTE_NODE_TINY_MODEL_H_
#define MSA_TESTS_COMPUTE_NODE_TINY_MODEL_H_

#include <string>

#include "compute_node/node.h"

namespace msa::compute_node {

inline NodeOptions TinyModel() {
  const std::string golden = std::string(MSA_SOURCE_DIR) + "/tests/golden/";
  NodeOptions options;
  options.model_dir = golden + "qwen3_small";
  options.tokenizer_file = golden + "tokenizers/qwen_small.json";
  return options;
}

}  // namespace msa::compute_node

#endif  // MSA_TESTS_COMPUTE_NODE_TINY_MODEL_H_

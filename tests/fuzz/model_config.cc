// config.json of a checkpoint.
#include "compute_node/model/config.h"
#include "tests/fuzz/model_config_checks.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = msa::compute_node::ParseModelConfig(msa::fuzz::View(data, size));
  if (config.ok()) {
    msa::compute_node::CheckConfig(*config);
  } else {
    msa::fuzz::CheckRefusal(config.status());
  }
  return 0;
}

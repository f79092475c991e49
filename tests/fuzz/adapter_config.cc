// adapter_config.json of an adapter, over a backbone of eight layers.
#include <cmath>
#include <string>

#include "common/check.h"
#include "compute_node/model/weights.h"
#include "tests/fuzz/model_config_checks.h"
#include "tests/fuzz/target.h"

namespace msa::compute_node {
namespace {

constexpr std::string_view kBackbone =
    R"({"model_type": "llama", "num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 96,
        "num_attention_heads": 4, "vocab_size": 300})";

void Try(const std::string& folder) {
  static const ModelConfig backbone = *ParseModelConfig(kBackbone);
  ModelConfig config = backbone;
  const auto adapter = ReadAdapterConfig(folder, config);
  if (!adapter.ok()) return fuzz::CheckRefusal(adapter.status());
  MSA_CHECK(adapter->lora_rank >= 0);
  MSA_CHECK(std::isfinite(adapter->lora_scale));
  CheckMemory(config);
}

}  // namespace
}  // namespace msa::compute_node

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static msa::fuzz::InputFile file("adapter_config.json");
  file.Write(msa::fuzz::View(data, size));
  msa::compute_node::Try(file.folder());
  return 0;
}

#include "cli/gpu_flags.h"

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "cli/exit_code.h"
#include "common/strings.h"

namespace msa::cli {

absl::StatusOr<std::vector<int>> ParseGpus(const std::string& list) {
  std::vector<int> gpus;
  for (absl::string_view number : absl::StrSplit(list, ',')) {
    int gpu = 0;
    if (!absl::SimpleAtoi(number, &gpu) || gpu < 0 || absl::c_linear_search(gpus, gpu)) {
      return absl::InvalidArgumentError(
          StrCat("--gpus '", list, "' is not a list of different GPU numbers, such as 0 or 0,1"));
    }
    gpus.push_back(gpu);
  }
  return gpus;
}

void GpuFlags::AddFlags(FlagSet& flags) {
  flags.Add("--gpus,--gpu", &gpus,
            "With --backend cuda: numbers of the GPUs, such as 0,1; a server's routing keys are "
            "spread over them, the model's weights copied to each [0]");
  flags.AddBounded(
      "--gpu-memory", &gpu_memory_mb, 0, INT32_MAX,
      "With --backend cuda: MB to take of each GPU, 0 for nearly all; keys beyond go to the "
      "host");
  flags.AddBounded("--host-memory", &host_memory_mb, 0, INT32_MAX,
                   "With --backend cuda: MB of pinned memory for such keys, 0 for no limit");
}

absl::Status GpuFlags::CheckFor(const std::string& backend) const {
  if (backend == "cuda") return absl::OkStatus();
  for (const auto& [given, flag] : {std::pair(gpus.has_value(), "--gpus"),
                                    {gpu_memory_mb > 0, "--gpu-memory"},
                                    {host_memory_mb > 0, "--host-memory"}}) {
    if (!given) continue;
    return UsageError(StrCat(flag, " is for GPUs, and --backend ", backend,
                             " uses none: give --backend cuda, or leave ", flag, " and ",
                             EnvironmentTwin(flag), " away"));
  }
  return absl::OkStatus();
}

}  // namespace msa::cli

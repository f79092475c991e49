// The flags that say which GPUs, and how much of them: for the verbs that compute, and for a bench
// of a server of its own.
#ifndef MSA_CLI_GPU_FLAGS_H_
#define MSA_CLI_GPU_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/flags.h"

namespace msa::cli {

// "0" or "0,1,3": each number once; INVALID_ARGUMENT otherwise.
absl::StatusOr<std::vector<int>> ParseGpus(const std::string& list);

struct GpuFlags {
  std::optional<std::string> gpus;
  int32_t gpu_memory_mb = 0;
  int32_t host_memory_mb = 0;

  void AddFlags(FlagSet& flags);
  // A usage error when one was given and `backend`, the value of --backend, would not look at it.
  absl::Status CheckFor(const std::string& backend) const;
  // Of what was given, else of GPU 0.
  absl::StatusOr<std::vector<int>> Numbers() const { return ParseGpus(gpus.value_or("0")); }
};

}  // namespace msa::cli

#endif  // MSA_CLI_GPU_FLAGS_H_

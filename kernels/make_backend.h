// How a backend is made, by name.
#ifndef MSA_KERNELS_MAKE_BACKEND_H_
#define MSA_KERNELS_MAKE_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"

namespace msa::kernels {

class Backend;

struct BackendOptions {
  int num_threads = 0;  // of `cpu`; 0 = one a core
  int gpu = 0;          // of `cuda`: the device's number
  // Of `cuda`: what Allocate may take. 0: nearly all of the GPU; no limit on pinned memory.
  int64_t gpu_memory_bytes = 0;
  int64_t host_memory_bytes = 0;
};

// `name` is "reference", "cpu" or "cuda"; INVALID_ARGUMENT for another, FAILED_PRECONDITION for a
// backend that was not built or finds no device. The only place that knows which were built.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(std::string_view name,
                                                     const BackendOptions& options);
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(std::string_view name, int num_threads);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_MAKE_BACKEND_H_

#include <memory>
#include <string_view>

#include "common/strings.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_backend.h"
#ifdef MSA_WITH_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif

namespace msa::kernels {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(std::string_view name,
                                                     const BackendOptions& options) {
  if (name == "reference") return MakeReferenceBackend();
  if (name == "cpu") return MakeCpuBackend(options.num_threads);
#ifdef MSA_WITH_CUDA
  if (name == "cuda") return MakeCudaBackend(options);
#else
  if (name == "cuda") {
    return absl::FailedPreconditionError(
        "this build has no cuda backend: build where nvcc is found, or use --backend cpu");
  }
#endif
  return absl::InvalidArgumentError(
      StrCat("unknown backend '", name, "': use cuda, cpu or reference (slow, exact)"));
}

}  // namespace msa::kernels

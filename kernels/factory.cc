#include <memory>
#include <string_view>
#include <utility>

#include "common/status_macros.h"
#include "common/strings.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/group_backend.h"
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

absl::StatusOr<BackendSet> BackendSet::Make(std::string_view name, const BackendOptions& options,
                                            const std::vector<int>& gpus) {
  BackendSet set;
  if (gpus.size() == 1) {
    BackendOptions of_one = options;
    of_one.gpu = gpus[0];
    MSA_ASSIGN_OR_RETURN(auto backend, MakeBackend(name, of_one));
    set.members_.push_back(std::move(backend));
    return set;
  }
  if (name != "cuda") {
    return absl::InvalidArgumentError("several GPUs are for --backend cuda");
  }
#ifdef MSA_WITH_CUDA
  MSA_ASSIGN_OR_RETURN(CudaBackends made, MakeCudaBackends(options, gpus));
  set.members_ = std::move(made.members);
  std::vector<const Backend*> members;
  for (const auto& member : set.members_) members.push_back(member.get());
  set.group_ = MakeGroupBackend(std::move(members), std::move(made.collective));
  return set;
#else
  return MakeBackend(name, options).status();
#endif
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(std::string_view name, int num_threads) {
  return MakeBackend(name, BackendOptions{.num_threads = num_threads});
}

}  // namespace msa::kernels

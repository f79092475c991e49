#include <memory>
#include <string_view>

#include "common/strings.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_backend.h"

namespace msa::kernels {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(std::string_view name, int num_threads) {
  if (name == "reference") return MakeReferenceBackend();
  if (name == "cpu") return MakeCpuBackend(num_threads);
  return absl::InvalidArgumentError(
      StrCat("unknown backend '", name, "': use cpu (fast) or reference (slow, exact)"));
}

}  // namespace msa::kernels

#include "common/limits.h"

#include "common/strings.h"

namespace msa {

absl::Status CheckSize(std::string_view what, size_t bytes, size_t limit) {
  if (bytes <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(StrCat(what, " has ", bytes, " bytes, the limit is ", limit));
}

}  // namespace msa

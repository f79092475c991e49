#include "kernels/cuda/kept_tables.h"

#include <algorithm>
#include <utility>

#include "common/status_macros.h"

namespace msa::kernels::cuda {

absl::StatusOr<KeptTables::Table> KeptTables::Find(
    std::string_view content, absl::FunctionRef<absl::StatusOr<Buffer>(std::string_view)> copy) {
  // Held while it is copied: who finds it here asks for its kernel behind the copy.
  absl::MutexLock lock(&mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.content == content; });
  if (found != entries_.end()) {
    entries_.splice(entries_.begin(), entries_, found);
    return found->table;
  }
  MSA_ASSIGN_OR_RETURN(Buffer buffer, copy(content));
  entries_.push_front({std::string(content), std::make_shared<const Buffer>(std::move(buffer))});
  if (entries_.size() > kTables) entries_.pop_back();
  return entries_.front().table;
}

void KeptTables::Clear() {
  absl::MutexLock lock(&mutex_);
  entries_.clear();
}

}  // namespace msa::kernels::cuda

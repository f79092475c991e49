// Small tables on the device, found again by their content: a pass over the same segments of the
// same layer needs the same table each time, and copying one over takes longer than comparing it.
// Thread-safe.
#ifndef MSA_KERNELS_CUDA_KEPT_TABLES_H_
#define MSA_KERNELS_CUDA_KEPT_TABLES_H_

#include <cstddef>
#include <list>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/buffer.h"

namespace msa::kernels::cuda {

class KeptTables {
 public:
  using Table = std::shared_ptr<const Buffer>;

  // The table of this content, which `copy` brings over when it is not there. It stays until
  // others have been asked for more recently, and as long as somebody holds it.
  absl::StatusOr<Table> Find(std::string_view content,
                             absl::FunctionRef<absl::StatusOr<Buffer>(std::string_view)> copy);
  void Clear();

 private:
  static constexpr size_t kTables = 128;  // of some kilobytes each

  struct Entry {
    std::string content;
    Table table;
  };

  absl::Mutex mutex_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mutex_);  // the last asked for first
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_KEPT_TABLES_H_

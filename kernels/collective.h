// What the backends of one process tell each other without the processor in between.
#ifndef MSA_KERNELS_COLLECTIVE_H_
#define MSA_KERNELS_COLLECTIVE_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace msa::kernels {

// Thread-safe.
class Collective {
 public:
  virtual ~Collective() = default;

  // out [members, bytes] in the processor's memory, there on return: what member m has at from[m],
  // in its own memory, after all work asked of it before. Never waits longer than the time-out it
  // was made with: a member that does not answer by then, or fails, makes this UNAVAILABLE, then
  // and for good.
  virtual absl::Status AllGather(absl::Span<const void* const> from, size_t bytes, void* out) = 0;
  // OK, or why AllGather will never work again.
  virtual absl::Status Health() const = 0;
};

}  // namespace msa::kernels

#endif  // MSA_KERNELS_COLLECTIVE_H_

// A backend that is short of memory when told so and counts passes.
#ifndef MSA_TESTS_COMPUTE_NODE_TIGHT_BACKEND_H_
#define MSA_TESTS_COMPUTE_NODE_TIGHT_BACKEND_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/forwarding_backend.h"

namespace msa::compute_node {

// Has memory for `most` bytes at once, and for `all` in use; counts what it is asked to attend.
class TightBackend : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  absl::StatusOr<kernels::Buffer> Allocate(size_t bytes, Purpose purpose) const override {
    const size_t used = in_use.fetch_add(bytes) + bytes;
    auto memory = std::make_shared<absl::StatusOr<kernels::Buffer>>(
        used > all || bytes > most ? absl::ResourceExhaustedError("no memory")
                                   : ForwardingBackend::Allocate(bytes, purpose));
    if (!memory->ok()) {
      in_use -= bytes;
      ++refused;
      return memory->status();
    }
    largest = std::max<size_t>(largest, bytes);
    return kernels::Buffer((*memory)->data(), bytes,
                           [this, memory](void*) { in_use -= (*memory)->size(); });
  }

  void Attend(absl::Span<const kernels::AttentionArgs> sequences) const override {
    ++attended;
    if (before_attend) before_attend();
    ForwardingBackend::Attend(sequences);
  }

  void Embed(const void* table, DType dtype, int64_t width, absl::Span<const int32_t> ids,
             float* out) const override {
    if (before_embed) before_embed();
    ForwardingBackend::Embed(table, dtype, width, ids, out);
  }

  std::function<void()> before_attend;
  std::function<void()> before_embed;
  mutable std::atomic<int> attended = 0;
  std::atomic<size_t> most = SIZE_MAX;
  std::atomic<size_t> all = SIZE_MAX;
  mutable std::atomic<size_t> in_use = 0;
  mutable std::atomic<size_t> largest = 0;  // that was had
  mutable std::atomic<int> refused = 0;
};

}  // namespace msa::compute_node

#endif  // MSA_TESTS_COMPUTE_NODE_TIGHT_BACKEND_H_

// Attention on a CPU: tiles of keys with a running softmax (max, sum), so that no score matrix is
// kept. A work item is one KV head of one sequence and a tile of its queries; query heads of a
// group share the item, so K and V are read once for all of them.
#ifndef MSA_KERNELS_CPU_ATTENTION_H_
#define MSA_KERNELS_CPU_ATTENTION_H_

#include "absl/types/span.h"
#include "common/thread_pool.h"
#include "kernels/types.h"

namespace msa::kernels {

// Backend::Attend. Results do not depend on the number of threads.
void CpuAttend(absl::Span<const AttentionArgs> sequences, ThreadPool& pool);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_ATTENTION_H_

// Routing scores on a CPU: one fused pass of dot products, reductions over query rows and over the
// chunks of a part.
#ifndef MSA_KERNELS_CPU_ROUTING_H_
#define MSA_KERNELS_CPU_ROUTING_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/thread_pool.h"
#include "kernels/types.h"

namespace msa::kernels {

// Backend::ScoreParts. Parallel over ranges of parts.
void CpuScoreParts(const ScoreArgs& args, ThreadPool& pool);

// Backend::SelectTopK: one scan with a heap of k, O(n + taken · log k).
std::vector<ScoredPart> CpuSelectTopK(absl::Span<const float> scores,
                                      absl::Span<const int64_t> references, const uint8_t* visible,
                                      int k);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_ROUTING_H_

// Backend's routing on the GPU: a bank's segments in one launch, the best parts without the scores
// leaving the device.
#ifndef MSA_KERNELS_CUDA_BANK_ROUTING_H_
#define MSA_KERNELS_CUDA_BANK_ROUTING_H_

#include "kernels/backend.h"
#include "kernels/cuda/device.h"

namespace msa::kernels::cuda {

// As Backend::ScoreBank.
bool ScoreBankOn(Device& device, const ScoreBankArgs& args);
// As Backend::TopIndicesInto; `out` in either memory.
void TopIndicesOn(Device& device, const float* scores, int64_t n, int k, void* out);
// False, and nothing done, for a scan off the fast path.
bool ScoreListedOn(Device& device, const ScoreListedArgs& args);
// As Backend::ListBestInto; `out` in either memory. False, and nothing done, for such a scan and
// for no parts.
bool ListBestOn(Device& device, const ListBestArgs& args, void* out);
void RaiseMaxNormOn(Device& device, const KeySegment& segment, int64_t key_width,
                    int64_t first_chunk, float* max_norm);
void EncodeCoarseOn(Device& device, const KeySegment& segment, int64_t key_width,
                    int64_t first_chunk, uint8_t* codes, float* scales);
void MeanOfScoresOn(Device& device, absl::Span<const float* const> scores, int64_t n, float* mean);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_BANK_ROUTING_H_

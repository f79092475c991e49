// Exact scores of parts that are named, not scanned: for each question its own list. A score is the
// scan's, to the bit. Conventions: kernels/cuda/routing.h.
#ifndef MSA_KERNELS_CUDA_ROUTING_LISTED_H_
#define MSA_KERNELS_CUDA_ROUTING_LISTED_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/routing.h"

namespace msa::kernels::cuda {

struct ListedArgs {
  // The scan whose scores are wanted; its `scores` is not used. Segments lie in the order of their
  // first_part. kSplit or kSingle.
  RoutingArgs scan;
  const int32_t* columns = nullptr;  // [num_questions, num_listed] of the scan's scores; -1: none
  int num_listed = 0;
  float* scores = nullptr;  // out [num_questions, num_listed]; kNoScore for none
  // Questions are packed while the kernel before still runs, which uses neither the workspace nor
  // `scores`; between it and all that use them lies an ordinary launch.
  bool early = false;
  // A number brought along to the scores, so that one copy takes all of it: *error_to = *error, 0
  // for null. Nothing where error_to is null.
  const float* error = nullptr;
  float* error_to = nullptr;
};

// Whether ScoreListed can: the scan takes its fast path.
bool CanScoreListed(const RoutingArgs& scan);

// 256-byte aligned; 132 KiB for every 64 rows of questions at a width of 1,024.
size_t ListedWorkspaceBytes(const RoutingArgs& scan);

// Cost: the keys of the parts listed are read once for every 8 rows, from the cache but for the
// first.
cudaError_t ScoreListed(const ListedArgs& args, void* workspace, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_LISTED_H_

#include "kernels/cuda/attention_table.h"
#include "kernels/cuda/step_start.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// Block y is a layer's, a thread a sequence's.
__global__ void StartStepKernel(StepStartArgs args) {
  const int row = blockIdx.x * kThreads + threadIdx.x;
  if (row >= args.rows) return;
  const int32_t num_tokens = args.from[2 * args.stride + row];
  auto* layer = static_cast<uint8_t*>(args.table) + blockIdx.y * args.layer_bytes;
  TableSequence& s = reinterpret_cast<TableSequence*>(layer)[row];
  s.local_tokens = num_tokens + 1;
  s.first_visible = num_tokens;
  auto* views = reinterpret_cast<TableView*>(static_cast<uint8_t*>(args.table) + args.views_offset);
  views[s.first_view + s.num_views - 1].num_tokens = num_tokens + 1;
  if (blockIdx.y > 0) return;
  args.to[row] = args.from[row];
  args.to[args.stride + row] = args.from[args.stride + row];
  args.to[2 * args.stride + row] = num_tokens;
}

}  // namespace

cudaError_t StartStep(const StepStartArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const dim3 grid((args.rows + kThreads - 1) / kThreads, args.num_layers);
  StartStepKernel<<<grid, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace msa::kernels::cuda

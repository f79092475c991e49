// How far a score of a pass with rounded questions can be from the exact one. Conventions:
// kernels/cuda/routing.h.
//
// A score is a maximum of dot products q·k, so it is off by no more than the worst of them. Both
// passes round q to q̂ and add products of q̂ and k, in float32 or integers:
//   |approximate - exact| <= (|q - q̂| + |q - q̂exact|) · |k| + what both lose adding up.
// |k| is at most the segments' max_norm (Cauchy-Schwarz), and the norms of the residuals are
// computed, not estimated. The matrix units cut the terms of each step (4, 8 or 16 products and the
// sum so far) to 24 bits of the largest of them, which is at most |q|·|k|, and so the result: 2^-23
// of that for each term and each sum, nothing for integers ("Numerical behavior of NVIDIA tensor
// cores", PeerJ Computer Science 2021).
//
// int8 keys: two pieces leave half a step of each element, a bound that is small enough. Of one
// piece the residual is computed, with the very steps and integers that the pass multiplies with:
// q̂ = step · integers, of which no more than the division's and the integer's rounding is known,
// and q - q̂ takes one rounding (fma). |q̂| is at most |q| + |q - q̂|; the sum of integers is exact
// (127 · 127 · 4,096 < 2^31) and is rounded as it becomes a float and for each of three scales.
#ifndef MSA_KERNELS_CUDA_ROUTING_BOUND_H_
#define MSA_KERNELS_CUDA_ROUTING_BOUND_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/routing.h"

namespace msa::kernels::cuda {

// Whether ScoreErrors knows this scan: the fast path, bf16, fp8 or int8 keys, no mean over rows.
bool CanBoundErrors(const RoutingArgs& scan);

// errors[question], device memory: of the scan with its precision, against kSplit. REQUIRES:
// CanBoundErrors, every segment has max_norm.
cudaError_t ScoreErrors(const RoutingArgs& scan, float* errors, cudaStream_t stream);

// Raises *max_norm to the norm of each key, rounded up; NaN when one is NaN. scales [num_chunks]
// or null.
cudaError_t RaiseMaxNorm(const void* keys, KeyFormat format, const float* scales,
                         int64_t num_chunks, int width, float* max_norm, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_BOUND_H_

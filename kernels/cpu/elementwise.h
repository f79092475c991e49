// The operations that touch each element once: pooling, norms, rotation, activation, precision.
// Contracts as in kernels/backend.h; all run on the calling thread over a range of rows.
#ifndef MSA_KERNELS_CPU_ELEMENTWISE_H_
#define MSA_KERNELS_CPU_ELEMENTWISE_H_

#include <cstdint>

#include "common/dtype.h"

namespace msa::kernels {

void CpuAdd(float* x, const float* y, int64_t n);
// x[i] = x[i] · factor.
void CpuScale(float* x, int64_t n, float factor);
void CpuSiluMul(const float* gate, const float* up, int64_t n, float* out);
// Sum of x[i]², several partial sums in a fixed order.
float CpuSumOfSquares(const float* x, int64_t n);
// out[i] = x[i] · factor · weight[i].
void CpuScaleMul(const float* x, float factor, const float* weight, int64_t n, float* out);
// One head: rotates x [2·half] by cosines and sines [half].
void CpuRotate(float* x, const float* cosines, const float* sines, int64_t half);

// out[i] = round(x[i] / scale), returns scale = max|x| / 127 (NaN when x has one).
float CpuQuantizeRow(const float* x, int64_t n, int8_t* out);
void CpuDequantizeRow(const int8_t* x, int64_t n, float scale, float* out);
// The same with scale = max|x| / 448.
float CpuQuantizeRow(const float* x, int64_t n, Float8* out);
void CpuDequantizeRow(const Float8* x, int64_t n, float scale, float* out);
// `in` is an array of BFloat16.
void CpuWidenBFloat16(const void* in, int64_t n, float* out);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_CPU_ELEMENTWISE_H_

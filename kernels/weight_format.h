// How WeightFormat::kInt8 rounds a weight row: in groups along the input, each with its own scale.
#ifndef MSA_KERNELS_WEIGHT_FORMAT_H_
#define MSA_KERNELS_WEIGHT_FORMAT_H_

#include <cstdint>

namespace msa::kernels {

// Consecutive weights of a row that share one float32 scale = max|w| / 127. 32 costs 1.125 bytes a
// weight; the logit error of 32, 64 and whole rows is in docs/decisions/0001-dense-products.md.
inline constexpr int64_t kInt8WeightGroup = 32;

}  // namespace msa::kernels

#endif  // MSA_KERNELS_WEIGHT_FORMAT_H_

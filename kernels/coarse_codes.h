// Codes of 4 bits an element, an eighth of float32 and a quarter of bf16: what a coarse scan reads
// in place of the keys (ScanMode::kCoarse, docs/decisions/0003 and 0013). Stateless; thread-safe.
//
// A code c (0 … 15) stands for scale · (c - 7.5), one scale a chunk: the one of 12 whose codes are
// nearest. Elements 64·i + j and 64·i + 32 + j (j < 32) are the low and the high half of byte
// 32·i + j.
#ifndef MSA_KERNELS_COARSE_CODES_H_
#define MSA_KERNELS_COARSE_CODES_H_

#include <cstdint>

#include "common/routing.h"
#include "kernels/types.h"

namespace msa::kernels {

class Backend;

// Whether keys of this shape can have codes: scores that fold, the largest chunk's, scale >= 0, and
// a width of a multiple of 64 up to 4,096.
bool CanHaveCodes(const RoutingShape& shape);

inline int64_t CodeBytes(int64_t key_width) { return key_width / 2; }  // of a key, without scale

// In double precision. `codes` [CodeBytes(width)]. A key with NaN or infinity gets a NaN scale.
void EncodeKey(const float* key, int64_t width, uint8_t* codes, float* scale);
void DecodeKey(const uint8_t* codes, float scale, int64_t width, float* key);

// Backend::ScoreBank with kCoarse for memory of the processor: decodes keys, and `backend` scores
// them as float32.
void ScoreCodes(const Backend& backend, const ScoreBankArgs& args);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_COARSE_CODES_H_

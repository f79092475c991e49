// Lists of the best parts of a pass, as Backend gives them and as members of a group leave them for
// one another. Plain data.
#ifndef MSA_KERNELS_BEST_LISTS_H_
#define MSA_KERNELS_BEST_LISTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace msa::kernels {

inline constexpr int kMostListed = 1024;

// Of Backend::TopIndices.
struct IndexedScore {
  float score;
  int64_t index;
};

// Of Backend::ListBest.
struct ListedPart {
  float score;
  float exact;
  int64_t index;
};
struct BestListed {
  std::vector<ListedPart> parts;
  float error = 0;  // of the pass; 0 where it is not asked for
};

// What Backend::TopIndicesInto leaves: scores [k], then int32 indices [k], -1 behind the last.
inline size_t TopIndicesBytes(int k) { return k * (sizeof(float) + sizeof(int32_t)); }
// The same of Backend::ListBestInto: scores [k], exact scores [k], int32 indices [k], -1 behind the
// last, then the error.
inline size_t ListBestBytes(int k) { return (3 * static_cast<size_t>(k) + 1) * sizeof(float); }

// Once they are in the processor's memory.
std::vector<IndexedScore> ParseTopIndices(const void* found, int k);
BestListed ParseListBest(const void* found, int k);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_BEST_LISTS_H_

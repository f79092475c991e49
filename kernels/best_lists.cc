#include "kernels/best_lists.h"

#include <cstring>

namespace msa::kernels {

std::vector<IndexedScore> ParseTopIndices(const void* found, int k) {
  std::vector<float> scores(k);
  std::vector<int32_t> indices(k);
  std::memcpy(scores.data(), found, k * sizeof(float));
  std::memcpy(indices.data(), static_cast<const float*>(found) + k, k * sizeof(int32_t));
  std::vector<IndexedScore> best;
  for (int i = 0; i < k && indices[i] >= 0; ++i) best.push_back({scores[i], indices[i]});
  return best;
}

BestListed ParseListBest(const void* found, int k) {
  std::vector<float> numbers(3 * static_cast<size_t>(k) + 1);
  std::memcpy(numbers.data(), found, numbers.size() * sizeof(float));
  std::vector<int32_t> indices(k);
  std::memcpy(indices.data(), &numbers[2 * static_cast<size_t>(k)], k * sizeof(int32_t));
  BestListed best;
  for (int i = 0; i < k && indices[i] >= 0; ++i) {
    best.parts.push_back({numbers[i], numbers[k + i], indices[i]});
  }
  best.error = numbers.back();
  return best;
}

}  // namespace msa::kernels

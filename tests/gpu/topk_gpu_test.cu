// The best k on a GPU against a sort on the host: ties, NaN, kNoScore, masks, few and many
// candidates.
#include "kernels/cuda/topk.h"
#include "tests/gpu/routing_device.cuh"

namespace msa::kernels::cuda {
namespace {

struct Best {
  float score;
  int64_t reference;
  int32_t index;
};

// How scores lie: apart; many the same; in a range of a thousandth, as the best of a memory do; all
// the same.
enum class Spread { kWide, kTies, kNarrow, kNone };

void CheckTopK(int64_t n, int k, int questions, Spread spread, bool masked, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> scores(questions * n);
  std::vector<int64_t> references(n);
  std::vector<uint8_t> visible(n);
  for (int64_t i = 0; i < n; ++i) {
    references[i] = i * 7 - 3 * n;
    visible[i] = !masked || random() % 3 != 0;
  }
  std::shuffle(references.begin(), references.end(), random);
  std::normal_distribution<float> normal;
  for (float& score : scores) {
    score = normal(random);
    if (spread == Spread::kTies) score = static_cast<float>(random() % 5) - 2.0f;
    if (spread == Spread::kNarrow) score = 0.9995f + 1e-4f * std::fabs(score);
    if (spread == Spread::kNone) score = -0.75f;
    if (random() % 50 == 0) score = kNoScore;
    if (random() % 50 == 0) score = std::numeric_limits<float>::quiet_NaN();
    if (random() % 50 == 0 && spread < Spread::kNarrow) score = -0.0f;
  }
  TopKArgs args;
  DeviceBuffer<float> device_scores(scores);
  DeviceBuffer<int64_t> device_references(references);
  DeviceBuffer<uint8_t> device_visible(visible);
  DeviceBuffer<float> best_scores(questions * k);
  DeviceBuffer<int64_t> best_references(questions * k);
  DeviceBuffer<int32_t> best_indices(questions * k);
  DeviceBuffer<int32_t> best_counts(questions);
  DeviceBuffer<char> workspace(TopKWorkspaceBytes(questions, n, k));
  args.scores = device_scores.get();
  args.references = device_references.get();
  args.visible = masked ? device_visible.get() : nullptr;
  args.num_questions = questions;
  args.num_candidates = n;
  args.stride = n;
  args.k = k;
  args.best_scores = best_scores.get();
  args.best_references = best_references.get();
  args.best_indices = best_indices.get();
  args.best_counts = best_counts.get();
  CUDA_OK(SelectTopK(args, workspace.get(), nullptr));
  Fetch(workspace);
  const auto got_scores = Fetch(best_scores);
  const auto got_references = Fetch(best_references);
  const auto got_indices = Fetch(best_indices);
  const auto got_counts = Fetch(best_counts);
  const std::string name = "top-k n " + std::to_string(n) + " k " + std::to_string(k);
  for (int q = 0; q < questions; ++q) {
    std::vector<Best> want;
    for (int64_t i = 0; i < n; ++i) {
      const float score = scores[q * n + i];
      if (score > kNoScore && visible[i] != 0) {
        want.push_back({score, references[i], static_cast<int32_t>(i)});
      }
    }
    std::sort(want.begin(), want.end(), [](const Best& a, const Best& b) {
      return Precedes({a.score, a.reference}, {b.score, b.reference});
    });
    if (static_cast<int>(want.size()) > k) want.resize(k);
    Expect(got_counts[q] == static_cast<int>(want.size()), name + " count");
    bool same = true;
    for (int i = 0; i < k; ++i) {
      const Best expected = i < static_cast<int>(want.size()) ? want[i] : Best{kNoScore, -1, -1};
      same = same && got_scores[q * k + i] == expected.score &&
             got_references[q * k + i] == expected.reference &&
             got_indices[q * k + i] == expected.index;
    }
    Expect(same, name + " spread " + std::to_string(static_cast<int>(spread)));
  }
}

void TestTopK() {
  uint32_t seed = 1;
  for (const Spread spread : {Spread::kWide, Spread::kTies, Spread::kNarrow, Spread::kNone}) {
    for (const int k : {1, 3, 16, 100, 1024}) {
      for (const int64_t n : {0, 1, 15, 16, 1000, 4096, 4097, 50000, 200000}) {
        CheckTopK(n, k, n > 5000 ? 2 : 3, spread, seed % 2 == 0, seed);
        ++seed;
      }
    }
  }
}

}  // namespace
}  // namespace msa::kernels::cuda

int main() {
  msa::kernels::cuda::TestTopK();
  return msa::testing::Finish("top-k");
}

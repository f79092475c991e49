// The contract of the small operations: pooling, norms, rotation, selection, activation.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/kernels/backend_fixture.h"
#include "tests/kernels/oracle.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/tolerances.h"

namespace msa::kernels {
namespace {

using ::msa::testing::BackendTest;
using ::msa::testing::GuardedBuffer;
using ::msa::testing::RandomFloats;
using ::msa::testing::Tolerances;
using ::testing::ElementsAre;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class BackendContractTest : public BackendTest {
 protected:
  std::vector<int64_t> SelectedReferences(const std::vector<float>& scores,
                                          const std::vector<int64_t>& references, int k,
                                          const uint8_t* visible = nullptr) {
    std::vector<int64_t> selected;
    for (const ScoredPart& part : backend_->SelectTopK(scores, references, visible, k)) {
      selected.push_back(part.reference);
    }
    return selected;
  }
};

TEST(MakeBackendTest, UnknownNameIsRefusedWithTheKnownOnes) {
  const auto backend = MakeBackend("gpu", 1);
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(backend.status().message()), ::testing::HasSubstr("reference"));
}

TEST(MakeBackendTest, WithoutAGpuCudaSaysWhatToUse) {
  const auto backend = MakeBackend("cuda", 1);
  if (backend.ok()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(backend.status().message()), ::testing::HasSubstr("--backend cpu"));
}

TEST(MakeBackendTest, AGpuThatIsNotThereIsRefused) {
  BackendOptions options;
  options.gpu = 4096;
  EXPECT_EQ(MakeBackend("cuda", options).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_P(BackendContractTest, PoolsByHand) {
  const std::vector<float> x = {1, 10, 2, 20, 3, 30, 4, 40, 7, 70};  // 5 tokens of width 2
  GuardedBuffer<float> out(6);
  backend_->PoolChunks(x.data(), 5, 2, 2, out.data());
  EXPECT_THAT(out.span(), ElementsAre(1.5f, 15.0f, 3.5f, 35.0f, 7.0f, 70.0f));
}

TEST_P(BackendContractTest, PoolingTellsChunksApart) {
  // A running prefix sum would lose the small chunk behind the large one.
  const std::vector<float> x = {1e8f, 1e8f, 1e-3f, 3e-3f};
  GuardedBuffer<float> out(2);
  backend_->PoolChunks(x.data(), 4, 1, 2, out.data());
  EXPECT_FLOAT_EQ(out[0], 1e8f);
  EXPECT_FLOAT_EQ(out[1], 2e-3f);
}

TEST_P(BackendContractTest, PoolsOddShapes) {
  for (const int64_t tokens : {1, 63, 64, 65, 200}) {
    const int64_t width = 37;
    const std::vector<float> x = RandomFloats(tokens * width, tokens);
    const int64_t chunks = (tokens + 63) / 64;
    GuardedBuffer<float> out(chunks * width);
    backend_->PoolChunks(x.data(), tokens, width, 64, out.data());
    for (int64_t i = 0; i < chunks * width; ++i) {
      const int64_t begin = i / width * 64;
      const int64_t end = std::min<int64_t>(begin + 64, tokens);
      double sum = 0;
      for (int64_t t = begin; t < end; ++t) sum += x[t * width + i % width];
      EXPECT_NEAR(out[i], sum / static_cast<double>(end - begin), Tolerances::kElementwise);
    }
  }
}

TEST_P(BackendContractTest, NormalisesByHandAndKeepsZeros) {
  GuardedBuffer<float> x(9);
  const std::vector<float> values = {3, 4, 0, 0, 0, 0, 0, -2, 0};
  std::copy(values.begin(), values.end(), x.data());
  backend_->L2Normalize(x.data(), 3, 3);
  const std::vector<float> expected = {0.6f, 0.8f, 0, 0, 0, 0, 0, -1, 0};
  for (int i = 0; i < 9; ++i) EXPECT_NEAR(x[i], expected[i], 1e-7) << i;
}

TEST_P(BackendContractTest, TinyNormsAreDividedByTheFloor) {
  GuardedBuffer<float> x(1);
  x[0] = 1e-13f;
  backend_->L2Normalize(x.data(), 1, 1);
  EXPECT_NEAR(x[0], 0.1, 1e-6);
}

TEST_P(BackendContractTest, FoldsGroupsOfHeads) {
  // 1 token, 4 query heads of size 2, 2 KV heads: group 0 = heads 0, 1.
  const std::vector<float> q = {1, 2, 3, 4, 10, 20, 30, 40};
  GuardedBuffer<float> out(4);
  backend_->FoldQueries(q.data(), 1, 4, 2, 2, out.data());
  EXPECT_THAT(out.span(), ElementsAre(1.0f, 1.5f, 10.0f, 15.0f));
}

TEST_P(BackendContractTest, RmsNormMatchesItsFormulaInPlaceToo) {
  for (const int64_t width : {1, 7, 64, 577}) {
    const int64_t rows = 3;
    const std::vector<float> x = RandomFloats(rows * width, width);
    const std::vector<float> weight = RandomFloats(width, width + 1);
    GuardedBuffer<float> out(rows * width);
    backend_->RmsNorm(x.data(), weight.data(), rows, width, 1e-5f, out.data());
    GuardedBuffer<float> in_place(rows * width);
    std::copy(x.begin(), x.end(), in_place.data());
    backend_->RmsNorm(in_place.data(), weight.data(), rows, width, 1e-5f, in_place.data());
    for (int64_t i = 0; i < rows * width; ++i) {
      double squares = 0;
      for (int64_t j = 0; j < width; ++j) squares += std::pow(x[i / width * width + j], 2);
      const double mean = squares / static_cast<double>(width);
      const double expected = x[i] / std::sqrt(mean + 1e-5) * weight[i % width];
      EXPECT_NEAR(out[i], expected, Tolerances::kElementwise * (1 + std::fabs(expected)));
      EXPECT_EQ(out[i], in_place[i]);
    }
  }
}

TEST_P(BackendContractTest, RopeRotatesHalvesByPosition) {
  // One frequency of 1: position p turns the pair (x[0], x[1]) by p radians.
  GuardedBuffer<float> x(4);
  const std::vector<float> values = {1, 0, 0, 2};
  std::copy(values.begin(), values.end(), x.data());
  const float inv_freq = 1.0f;
  backend_->Rope(x.data(), {2, 0}, 1, 2, &inv_freq, 1.0f);
  EXPECT_NEAR(x[0], std::cos(2.0), 1e-6);
  EXPECT_NEAR(x[1], std::sin(2.0), 1e-6);
  EXPECT_EQ(x[2], 0.0f);
  EXPECT_EQ(x[3], 2.0f);
}

TEST_P(BackendContractTest, RopeUsesFloat32AnglesAndMagnitude) {
  for (const int head_dim : {6, 16, 32, 64, 128}) {
    const int heads = 3;
    const std::vector<int32_t> positions = {0, 1, 77, 4095, 130000};
    std::vector<float> inv_freq(head_dim / 2);
    for (int i = 0; i < head_dim / 2; ++i) {
      inv_freq[i] = std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(head_dim));
    }
    const size_t n = positions.size() * heads * head_dim;
    const std::vector<float> before = RandomFloats(n, head_dim);
    GuardedBuffer<float> x(n);
    std::copy(before.begin(), before.end(), x.data());
    backend_->Rope(x.data(), positions, heads, head_dim, inv_freq.data(), 1.5f);
    for (size_t i = 0; i < n; ++i) {
      const int lane = static_cast<int>(i) % head_dim;
      const int pair = lane % (head_dim / 2);
      const float angle = static_cast<float>(positions[i / (heads * head_dim)]) * inv_freq[pair];
      const double cosine = std::cos(double{angle});
      const double sine = std::sin(double{angle});
      const double low = before[i - lane + pair];
      const double high = before[i - lane + pair + head_dim / 2];
      const double turned = lane == pair ? low * cosine - high * sine : high * cosine + low * sine;
      EXPECT_NEAR(x[i], 1.5 * turned, 2 * Tolerances::kElementwise) << i;
    }
  }
}

TEST_P(BackendContractTest, SplitQkvIsItsParts) {
  constexpr int kRows = 37, kQHeads = 4, kKvHeads = 2, kHeadDim = 12;
  constexpr int64_t kQ = kRows * kQHeads * kHeadDim, kKv = kRows * kKvHeads * kHeadDim;
  const std::vector<float> qkv = RandomFloats(kQ + 2 * kKv, 1);
  const std::vector<float> norms = RandomFloats(2 * kHeadDim, 2);
  const std::vector<float> inv_freq = {1.0f, 0.5f, 0.1f, 0.02f, 0.003f, 0.0001f};
  std::vector<int32_t> positions(kRows);
  for (int i = 0; i < kRows; ++i) positions[i] = 5 * i;
  for (const bool normed : {false, true}) {
    GuardedBuffer<float> q(kQ), k(kKv), v(kKv), parts_q(kQ), parts_k(kKv), parts_v(kKv);
    SplitQkvArgs args;
    args.qkv = qkv.data();
    args.rows = kRows;
    args.num_q_heads = kQHeads;
    args.num_kv_heads = kKvHeads;
    args.head_dim = kHeadDim;
    args.q_norm = normed ? norms.data() : nullptr;
    args.k_norm = normed ? norms.data() + kHeadDim : nullptr;
    args.eps = 1e-5f;
    args.positions = positions;
    args.inv_freq = inv_freq.data();
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    backend_->SplitQkv(args);
    args.q = parts_q.data();
    args.k = parts_k.data();
    args.v = parts_v.data();
    backend_->Backend::SplitQkv(args);  // operation by operation, each tested above
    for (int i = 0; i < kQ; ++i) ASSERT_NEAR(q[i], parts_q[i], 4 * Tolerances::kElementwise) << i;
    for (int i = 0; i < kKv; ++i) {
      ASSERT_NEAR(k[i], parts_k[i], 4 * Tolerances::kElementwise) << i;
      ASSERT_EQ(v[i], parts_v[i]) << i;
    }
  }
}

TEST_P(BackendContractTest, SiluMulAtBothEnds) {
  const std::vector<float> gate = {-200, -3, -0.0f, 0.5, 3, 60, 88, 200, 1, 2, 3};
  const size_t width = gate.size();
  const std::vector<float> up = RandomFloats(2 * width, 5);  // of two rows with the same gates
  std::vector<float> rows;
  for (int r = 0; r < 2; ++r) {
    rows.insert(rows.end(), gate.begin(), gate.end());
    rows.insert(rows.end(), up.begin() + r * width, up.begin() + (r + 1) * width);
  }
  GuardedBuffer<float> out(2 * width);
  backend_->SiluMul(rows.data(), 2, static_cast<int64_t>(width), out.data());
  for (size_t i = 0; i < 2 * width; ++i) {
    const float g = gate[i % width];
    const double expected = g / (1 + std::exp(-double{g})) * up[i];
    EXPECT_NEAR(out[i], expected, Tolerances::kElementwise * (1 + std::fabs(expected))) << g;
  }
}

TEST_P(BackendContractTest, CutsColumnsAndGathersRows) {
  const std::vector<float> x = {1, 2, 3, 4, 5, 6, 7, 8, 9};  // [3, 3]
  GuardedBuffer<float> columns(6);
  backend_->CopyColumns(x.data(), 3, 3, 1, 2, columns.data());
  EXPECT_THAT(columns.span(), ElementsAre(2, 3, 5, 6, 8, 9));
  GuardedBuffer<float> rows(9);
  backend_->GatherRows(x.data(), 3, {2, 0, 2}, rows.data());
  EXPECT_THAT(rows.span(), ElementsAre(7, 8, 9, 1, 2, 3, 7, 8, 9));
}

TEST_P(BackendContractTest, ArgMaxTakesTheLowestIndexOfEquals) {
  const std::vector<float> x = {1, 5, 5, -1, -2, -1};  // [2, 3]
  GuardedBuffer<int32_t> indices(2);
  backend_->ArgMax(x.data(), 2, 3, indices.data());
  EXPECT_THAT(indices.span(), ElementsAre(1, 0));
}

TEST_P(BackendContractTest, AppendsEachSequencesRowsToItsOwn) {
  const std::vector<float> k = {1, 2, 3, 4, 5, 6};  // [3, 2]
  const std::vector<float> v = {-1, -2, -3, -4, -5, -6};
  auto memory = backend_->Allocate(12 * sizeof(float));
  ASSERT_TRUE(memory.ok());
  auto* at = memory->as<float>();
  backend_->AppendRows(k.data(), v.data(), 2, {{at, at + 6, 2, 1}, {at + 2, at + 8, 0, 2}});
  GuardedBuffer<float> back(12);
  backend_->Copy(back.data(), at, 12 * sizeof(float));
  EXPECT_THAT(back.span(), ElementsAre(5, 6, 1, 2, 3, 4, -5, -6, -1, -2, -3, -4));
  GuardedBuffer<float> host(4);  // the processor's memory
  backend_->AppendRows(k.data(), v.data(), 2, {{host.data(), host.data() + 2, 1, 1}});
  EXPECT_THAT(host.span(), ElementsAre(3, 4, -3, -4));
}

TEST_P(BackendContractTest, TopIndicesPreferTheLowerIndexOfEquals) {
  const std::vector<float> scores = {1, 3, kNan, 3, kNoScore, 2};
  std::vector<int64_t> indices;
  for (const auto& best : backend_->TopIndices(scores.data(), 6, 3)) {
    EXPECT_EQ(best.score, scores[best.index]);
    indices.push_back(best.index);
  }
  EXPECT_THAT(indices, ElementsAre(1, 3, 5));
  EXPECT_EQ(backend_->TopIndices(scores.data(), 6, 6).size(), 4u);  // all that can be chosen
  EXPECT_TRUE(backend_->TopIndices(scores.data(), 0, 3).empty());
}

TEST_P(BackendContractTest, EmbedsRowsOfEitherPrecision) {
  const std::vector<float> table = {1, 2, 3, 4, 0.5f, -6};  // [3, 2]
  GuardedBuffer<float> out(4);
  backend_->Embed(table.data(), DType::kFloat32, 2, {2, 1}, out.data());
  EXPECT_THAT(out.span(), ElementsAre(0.5f, -6, 3, 4));
  std::vector<BFloat16> half;
  for (const float value : table) half.push_back(ToBFloat16(value));
  backend_->Embed(half.data(), DType::kBFloat16, 2, {0, 2}, out.data());
  EXPECT_THAT(out.span(), ElementsAre(1, 2, 0.5f, -6));
}

TEST_P(BackendContractTest, OwnMemoryHoldsWhatIsCopiedAndComputed) {
  const std::vector<float> x = RandomFloats(1000, 4);
  const size_t bytes = x.size() * sizeof(float);
  for (const auto purpose : {Backend::Purpose::kWork, Backend::Purpose::kResident}) {
    auto buffer = backend_->Allocate(bytes, purpose);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->size(), bytes);
    backend_->Copy(buffer->data(), x.data(), bytes);
    backend_->Add(buffer->as<float>(), x.data(), 500);  // the first half twice
    GuardedBuffer<float> back(1000);
    backend_->Copy(back.data(), buffer->data(), bytes);
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(back[i], i < 500 ? 2 * x[i] : x[i]);
  }
  EXPECT_TRUE(backend_->Health().ok());
}

TEST_P(BackendContractTest, WhatIsFetchedIsThereOnceAMarkHasPassed) {
  constexpr int64_t kFloats = 1 << 19;
  const std::vector<float> x = RandomFloats(kFloats, 9);
  const Buffer buffer = *CopyToBackend(*backend_, x.data(), kFloats * sizeof(float));
  std::vector<Buffer> fetched;
  for (int i = 0; i < 3; ++i) {
    fetched.push_back(backend_->StartFetch(buffer.data(), kFloats * sizeof(float)));
    if (fetched.back().data() == nullptr) {
      EXPECT_TRUE(backend_->memory_is_host());
      EXPECT_EQ(backend_->MakeMark(), nullptr);
      return;
    }
    backend_->Add(buffer.as<float>(), buffer.as<float>() + kFloats / 2, kFloats / 2);
  }
  backend_->MakeMark()->Wait();
  float expected = x[5];
  for (const Buffer& one : fetched) {
    EXPECT_EQ(one.as<float>()[5], expected);
    EXPECT_EQ(one.as<float>()[kFloats - 1], x[kFloats - 1]);
    expected += x[kFloats / 2 + 5];
  }
  EXPECT_TRUE(backend_->Health().ok());
}

TEST_P(BackendContractTest, AddsOddLengths) {
  for (const int64_t n : {0, 1, 8, 1001}) {
    const std::vector<float> x = RandomFloats(n, 1);
    const std::vector<float> y = RandomFloats(n, 2);
    GuardedBuffer<float> sum(n);
    std::copy(x.begin(), x.end(), sum.data());
    backend_->Add(sum.data(), y.data(), n);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(sum[i], x[i] + y[i]);
  }
}

TEST_P(BackendContractTest, SelectsInTheOrderOfPrecedes) {
  EXPECT_THAT(SelectedReferences({1, 3, 2}, {10, 11, 12}, 2), ElementsAre(11, 12));
  // Equal scores: the lower reference number first, wherever it stands.
  EXPECT_THAT(SelectedReferences({5, 5, 5, 7}, {30, 10, 20, 40}, 3), ElementsAre(40, 10, 20));
  EXPECT_THAT(SelectedReferences({-0.0f, 0.0f}, {2, 1}, 2), ElementsAre(1, 2));
}

TEST_P(BackendContractTest, NeverSelectsNanNoScoreOrMasked) {
  const std::vector<float> scores = {kNan, 1, kNoScore, 2, 3};
  const std::vector<uint8_t> visible = {1, 1, 1, 1, 0};
  EXPECT_THAT(SelectedReferences(scores, {0, 1, 2, 3, 4}, 5, visible.data()), ElementsAre(3, 1));
  EXPECT_THAT(SelectedReferences({kNan, kNoScore}, {0, 1}, 2), ElementsAre());
  EXPECT_THAT(SelectedReferences({}, {}, 2), ElementsAre());
  EXPECT_THAT(SelectedReferences({1}, {0}, 0), ElementsAre());
}

TEST_P(BackendContractTest, SelectionIsTheHeadOfTheSortedList) {
  std::mt19937 generator(7);
  for (const int n : {1, 16, 17, 500}) {
    std::vector<ScoredPart> all;
    std::vector<float> scores;
    std::vector<int64_t> references;
    for (int i = 0; i < n; ++i) {
      scores.push_back(static_cast<float>(generator() % 20));  // many ties
      references.push_back(4000 - 7 * i);
      all.push_back({scores.back(), references.back()});
    }
    std::sort(all.begin(), all.end(), [](const ScoredPart& a, const ScoredPart& b) {
      return a.score > b.score || (a.score == b.score && a.reference < b.reference);
    });
    const std::vector<ScoredPart> selected = backend_->SelectTopK(scores, references, nullptr, 16);
    ASSERT_EQ(selected.size(), std::min<size_t>(n, 16));
    for (size_t i = 0; i < selected.size(); ++i) {
      EXPECT_EQ(selected[i].reference, all[i].reference);
      EXPECT_EQ(selected[i].score, all[i].score);
    }
  }
}

MSA_ON_EVERY_BACKEND(BackendContractTest);

}  // namespace
}  // namespace msa::kernels

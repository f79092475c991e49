// The contract of coarse scans: codes as near to the keys as the best of 12 scales makes them, and
// scores of those codes whoever made them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/coarse_codes.h"
#include "tests/kernels/backend_fixture.h"
#include "tests/kernels/oracle.h"
#include "tests/support/guarded_buffer.h"

namespace msa::kernels {
namespace {

using ::msa::testing::BackendTest;
using ::msa::testing::Doubles;
using ::msa::testing::GuardedBuffer;
using ::msa::testing::Matrix;
using ::msa::testing::RandomFloats;
using ::msa::testing::RandomMatrix;

constexpr DType kPrecisions[] = {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8};

KeySegment SegmentOf(const Matrix& keys, const std::vector<int64_t>& part_begin) {
  return {.keys = keys.data(),
          .scales = keys.scales.empty() ? nullptr : keys.scales.data(),
          .dtype = keys.dtype,
          .part_begin = part_begin};
}

// What codes stand for, by their definition.
double Decoded(const uint8_t* codes, double scale, int i) {
  const uint8_t byte = codes[i / 64 * 32 + i % 32];
  return scale * ((i % 64 < 32 ? byte & 15 : byte >> 4) - 7.5);
}

// The squared error of the best codes that one of the 12 scales gives.
double LeastError(const double* key, int width) {
  double largest = 0;
  for (int i = 0; i < width; ++i) largest = std::max(largest, std::abs(key[i]));
  double least = std::numeric_limits<double>::infinity();
  for (int step = 0; step < 12 && largest > 0; ++step) {
    const double inverse = 8 / (largest * (1 - step / 18.0));
    double dot = 0, levels = 0, square = 0;
    for (int i = 0; i < width; ++i) {
      const double level = std::clamp(std::floor(key[i] * inverse) + 8, 0.0, 15.0) - 7.5;
      dot += key[i] * level;
      levels += level * level;
      square += key[i] * key[i];
    }
    least = std::min(least, square - dot * dot / levels);
  }
  return largest > 0 ? least : 0;
}

class CoarseRoutingTest : public BackendTest {};

TEST_P(CoarseRoutingTest, CodesAreAsNearToTheKeysAsTheyCanBe) {
  uint32_t seed = 300;
  for (const DType dtype : kPrecisions) {
    for (const int width : {64, 192, 1024}) {
      constexpr int kChunks = 23, kFirst = 6;
      const Matrix keys = RandomMatrix(kChunks, width, dtype, seed++, 0.3);
      const std::vector<int64_t> part_begin = {0, kChunks};
      GuardedBuffer<uint8_t> codes(kChunks * width / 2);
      GuardedBuffer<float> scales(kChunks);
      std::memset(codes.data(), 0x5A, codes.size());
      std::fill_n(scales.data(), kChunks, -3.0f);
      const KeySegment segment = SegmentOf(keys, part_begin);
      backend_->EncodeCoarse(segment, width, kFirst, codes.data(), scales.data());
      for (int c = 0; c < kFirst; ++c) EXPECT_EQ(scales.data()[c], -3.0f);
      EXPECT_EQ(codes.data()[kFirst * width / 2 - 1], 0x5A);
      for (int c = kFirst; c < kChunks; ++c) {
        double error = 0;
        for (int i = 0; i < width; ++i) {
          const double off = keys.values[c * width + i] -
                             Decoded(codes.data() + c * width / 2, scales.data()[c], i);
          error += off * off;
        }
        // An element on the border of two codes may go to either: keys of few values have many.
        EXPECT_LE(error, 1.05 * LeastError(&keys.values[c * width], width))
            << DTypeName(dtype) << " " << width;
      }
    }
  }
}

TEST_P(CoarseRoutingTest, KeysOfZerosAndNotFiniteOnesHaveCodesThatSaySo) {
  constexpr int kWidth = 128;
  Matrix keys = RandomMatrix(4, kWidth, DType::kFloat32, 9, 1.0);
  std::fill_n(keys.f32.begin(), kWidth, 0.0f);
  keys.f32[kWidth + 77] = std::numeric_limits<float>::quiet_NaN();
  keys.f32[2 * kWidth + 5] = std::numeric_limits<float>::infinity();
  const std::vector<int64_t> part_begin = {0, 4};
  GuardedBuffer<uint8_t> codes(4 * kWidth / 2);
  GuardedBuffer<float> scales(4);
  backend_->EncodeCoarse(SegmentOf(keys, part_begin), kWidth, 0, codes.data(), scales.data());
  EXPECT_EQ(scales.data()[0], 0);
  EXPECT_TRUE(std::isnan(scales.data()[1]));
  EXPECT_TRUE(std::isnan(scales.data()[2]));
  EXPECT_GT(scales.data()[3], 0);
}

// A bank of three segments with codes of the reference's making.
struct Bank {
  RoutingShape shape;
  std::vector<Matrix> keys;
  std::vector<std::vector<int64_t>> part_begin;
  std::vector<std::vector<uint8_t>> codes;
  std::vector<std::vector<float>> scales;

  std::vector<KeySegment> Segments() const {
    std::vector<KeySegment> segments;
    for (size_t i = 0; i < keys.size(); ++i) {
      segments.push_back(SegmentOf(keys[i], part_begin[i]));
      segments.back().codes = codes[i].data();
      segments.back().code_scales = scales[i].data();
    }
    return segments;
  }
  int64_t num_parts() const {
    int64_t parts = 0;
    for (const auto& begin : part_begin) parts += static_cast<int64_t>(begin.size()) - 1;
    return parts;
  }
};

Bank MakeBank(const RoutingShape& shape, DType dtype, uint32_t seed) {
  const auto reference = MakeBackend("reference", 1);
  const int width = shape.key_width();
  Bank bank;
  bank.shape = shape;
  for (const int chunks : {91, 5, 40}) {
    bank.keys.push_back(RandomMatrix(chunks, width, dtype, seed + chunks, 1.0));
    std::vector<int64_t> begin = {0};
    for (int size = 0; begin.back() < chunks; size = (size + 1) % 12) {
      begin.push_back(std::min<int64_t>(chunks, begin.back() + size));
    }
    bank.part_begin.push_back(begin);
    bank.codes.emplace_back(chunks * width / 2);
    bank.scales.emplace_back(chunks);
    (*reference)
        ->EncodeCoarse(SegmentOf(bank.keys.back(), begin), width, 0, bank.codes.back().data(),
                       bank.scales.back().data());
  }
  return bank;
}

// Scores [questions, parts]; checks that nothing is said of the errors.
std::vector<float> Score(const Backend& backend, const Bank& bank, const float* queries,
                         const std::vector<int32_t>& query_begin) {
  const size_t questions = query_begin.size() - 1;
  GuardedBuffer<float> scores(questions * bank.num_parts());
  GuardedBuffer<float> errors(questions);
  const auto segments = bank.Segments();
  ScoreBankArgs args;
  args.shape = bank.shape;
  args.segments = segments;
  args.queries = queries;
  args.query_begin = query_begin;
  args.scores = scores.data();
  args.mode = ScanMode::kCoarse;
  args.errors = errors.data();
  EXPECT_TRUE(backend.ScoreBank(args));
  for (size_t q = 0; q < questions; ++q) EXPECT_FALSE(std::isfinite(errors.data()[q]));
  return {scores.data(), scores.data() + scores.size()};
}

// The definition, in double.
Doubles Oracle(const Bank& bank, const float* queries, int rows) {
  const int width = bank.shape.key_width();
  Doubles scores;
  for (size_t s = 0; s < bank.keys.size(); ++s) {
    for (size_t p = 0; p + 1 < bank.part_begin[s].size(); ++p) {
      double part = kNoScore;
      for (int64_t c = bank.part_begin[s][p]; c < bank.part_begin[s][p + 1]; ++c) {
        double best = kNoScore, sum = 0;
        for (int r = 0; r < rows; ++r) {
          double dot = 0;
          for (int i = 0; i < width; ++i) {
            dot += queries[r * width + i] *
                   Decoded(&bank.codes[s][c * width / 2], bank.scales[s][c], i);
          }
          best = std::max(best, dot);
          sum += dot / rows;
          if (bank.shape.query == Reduce::kLast) best = dot;
        }
        part = std::max(part, bank.shape.query == Reduce::kMean ? sum : best);
      }
      scores.push_back(part == kNoScore ? part : part * bank.shape.scale);
    }
  }
  return scores;
}

TEST_P(CoarseRoutingTest, ScoresAreThoseOfTheCodesForQuestionsOfEightBits) {
  uint32_t seed = 500;
  for (const Reduce query : {Reduce::kMax, Reduce::kMean, Reduce::kLast}) {
    for (const int head_dim : {16, 64, 256}) {
      RoutingShape shape = {.num_q_heads = 8, .num_kv_heads = 4, .head_dim = head_dim};
      shape.query = query;
      shape.scale = 0.7f;
      ASSERT_TRUE(CanHaveCodes(shape));
      const int width = shape.key_width();
      const Bank bank = MakeBank(shape, kPrecisions[seed % 4], seed);
      const std::vector<int> rows = {1, 9, 40, 70};
      std::vector<int32_t> begin = {0};
      for (const int n : rows) begin.push_back(begin.back() + n);
      const auto queries = RandomFloats(begin.back() * width, seed++, 1 / std::sqrt(width));
      const auto together = Score(*backend_, bank, queries.data(), begin);
      for (size_t q = 0; q < rows.size(); ++q) {
        const float* question = &queries[begin[q] * width];
        const auto alone = Score(*backend_, bank, question, {0, rows[q]});
        const Doubles want = Oracle(bank, question, rows[q]);
        float largest = 0;
        for (int i = 0; i < rows[q] * width; ++i) {
          largest = std::max(largest, std::abs(question[i]));
        }
        // Half a step of 127 an element, against keys of norm sqrt(width) and a little.
        const double rounding = largest / 254 * std::sqrt(width) * 1.5 * std::sqrt(width);
        for (int64_t p = 0; p < bank.num_parts(); ++p) {
          const float got = together[q * bank.num_parts() + p];
          EXPECT_EQ(got, alone[p]) << "company";
          if (want[p] == kNoScore) {
            EXPECT_EQ(got, kNoScore);
          } else {
            EXPECT_NEAR(got, want[p], backend_->name() == "cuda" ? rounding : 1e-4);
          }
        }
      }
    }
  }
}

TEST_P(CoarseRoutingTest, ChunksWithoutNumbersAreNotHidden) {
  RoutingShape shape = {.num_q_heads = 2, .num_kv_heads = 1, .head_dim = 64};
  Bank bank = MakeBank(shape, DType::kBFloat16, 7);
  bank.scales[1][0] = std::numeric_limits<float>::quiet_NaN();
  const auto queries = RandomFloats(2 * shape.key_width(), 8, 0.1);
  const auto scores = Score(*backend_, bank, queries.data(), {0, 2});
  const auto first = static_cast<int64_t>(bank.part_begin[0].size()) - 1;
  int64_t part = 0;  // of the second segment, with its chunk 0
  while (bank.part_begin[1][part + 1] == 0) ++part;
  EXPECT_TRUE(std::isnan(scores[first + part]));
  for (int64_t p = 0; p < first; ++p) EXPECT_FALSE(std::isnan(scores[p]));
}

TEST(CoarseCodes, ExistForScoresThatFoldAndWholeGroups) {
  RoutingShape shape = {.num_q_heads = 8, .num_kv_heads = 4, .head_dim = 16};
  EXPECT_TRUE(CanHaveCodes(shape));
  shape.head_dim = 24;
  EXPECT_FALSE(CanHaveCodes(shape));
  shape.head_dim = 2048;
  EXPECT_FALSE(CanHaveCodes(shape));
  shape.head_dim = 16;
  shape.head = Reduce::kMax;
  EXPECT_FALSE(CanHaveCodes(shape));
  shape.head = Reduce::kMean;
  shape.chunk = Reduce::kMean;
  EXPECT_FALSE(CanHaveCodes(shape));
}

MSA_ON_EVERY_BACKEND(CoarseRoutingTest);

}  // namespace
}  // namespace msa::kernels

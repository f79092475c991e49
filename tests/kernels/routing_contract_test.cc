// The contract of ScoreParts: every reduction, precision and odd shape against the oracle, and
// scores that do not depend, to the bit, on company, place, partition or threads.
#include <cmath>
#include <limits>
#include <random>
#include <string>
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
using ::msa::testing::Doubles;
using ::msa::testing::GuardedBuffer;
using ::msa::testing::Matrix;
using ::msa::testing::OraclePartScore;
using ::msa::testing::RandomFloats;
using ::msa::testing::RandomMatrix;
using ::msa::testing::Tolerances;

// Questions, keys and parts of one call, owning their data.
struct RoutingCase {
  RoutingShape shape;
  Matrix keys;
  std::vector<int64_t> part_begin;
  std::vector<float> queries;
  std::vector<int32_t> query_begin;

  int64_t num_parts() const { return static_cast<int64_t>(part_begin.size()) - 1; }
  int num_questions() const { return static_cast<int>(query_begin.size()) - 1; }
  KeySegment Segment() const {
    return {.keys = keys.data(),
            .scales = keys.scales.empty() ? nullptr : keys.scales.data(),
            .dtype = keys.dtype,
            .part_begin = part_begin};
  }
};

// Parts of 0, 1 and many chunks in a shuffled order.
std::vector<int64_t> MixedParts(int64_t num_chunks, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<int64_t> begin = {0};
  while (begin.back() < num_chunks) {
    const int64_t sizes[] = {0, 1, 2, 3, 5, 17, 100};
    begin.push_back(std::min(num_chunks, begin.back() + sizes[generator() % 7]));
  }
  begin.push_back(num_chunks);  // an empty part at the very end
  return begin;
}

RoutingCase MakeCase(const RoutingShape& shape, DType dtype, int64_t num_chunks,
                     const std::vector<int>& rows_of_questions, uint32_t seed) {
  RoutingCase c;
  c.shape = shape;
  c.keys = RandomMatrix(num_chunks, shape.key_width(), dtype, seed, 1.0);
  c.part_begin = MixedParts(num_chunks, seed + 1);
  c.query_begin = {0};
  for (const int rows : rows_of_questions) c.query_begin.push_back(c.query_begin.back() + rows);
  c.queries = RandomFloats(c.query_begin.back() * shape.query_width(), seed + 2,
                           1.0 / std::sqrt(shape.query_width()));
  return c;
}

std::vector<float> Score(const Backend& backend, const RoutingCase& c) {
  GuardedBuffer<float> scores(c.num_questions() * c.num_parts());
  ScoreArgs args;
  args.shape = c.shape;
  args.segment = c.Segment();
  args.queries = c.queries.data();
  args.query_begin = c.query_begin;
  args.scores = scores.data();
  backend.ScoreParts(args);
  return {scores.data(), scores.data() + scores.size()};
}

void ExpectMatchesOracle(const RoutingCase& c, const std::vector<float>& scores) {
  const int key_width = c.shape.key_width();
  for (int question = 0; question < c.num_questions(); ++question) {
    const Doubles rows(c.queries.begin() + c.query_begin[question] * c.shape.query_width(),
                       c.queries.begin() + c.query_begin[question + 1] * c.shape.query_width());
    for (int64_t part = 0; part < c.num_parts(); ++part) {
      const float score = scores[question * c.num_parts() + part];
      const Doubles chunks(c.keys.values.begin() + c.part_begin[part] * key_width,
                           c.keys.values.begin() + c.part_begin[part + 1] * key_width);
      if (chunks.empty()) {
        EXPECT_EQ(score, kNoScore);
      } else {
        EXPECT_NEAR(score, OraclePartScore(c.shape, rows, chunks), Tolerances::kScore)
            << "question " << question << " part " << part;
      }
    }
  }
}

// The same question alone.
RoutingCase OneQuestion(const RoutingCase& c, int question) {
  RoutingCase one = c;
  one.queries.assign(c.queries.begin() + c.query_begin[question] * c.shape.query_width(),
                     c.queries.begin() + c.query_begin[question + 1] * c.shape.query_width());
  one.query_begin = {0, c.query_begin[question + 1] - c.query_begin[question]};
  return one;
}

// Chunks begin … end-1 as one part.
RoutingCase OnePart(const RoutingCase& c, int64_t begin, int64_t end) {
  RoutingCase one = c;
  const int64_t width = c.shape.key_width();
  const auto cut = [&](auto& values, int64_t row) {
    if (!values.empty()) {
      values = {values.begin() + begin * row, values.begin() + end * row};
    }
  };
  cut(one.keys.f32, width);
  cut(one.keys.bf16, width);
  cut(one.keys.int8, width);
  cut(one.keys.fp8, width);
  cut(one.keys.scales, 1);
  cut(one.keys.values, width);
  one.part_begin = {0, end - begin};
  return one;
}

constexpr DType kPrecisions[] = {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8};

class RoutingContractTest : public BackendTest {};

TEST_P(RoutingContractTest, ScoresByHand) {
  // 2 query heads on 1 KV head of size 2, folded: one row (1, 2). Chunks (3, 1), (0, 4), (-1, 0).
  RoutingCase c;
  c.shape = {.num_q_heads = 2, .num_kv_heads = 1, .head_dim = 2, .scale = 0.5f};
  c.keys.f32 = {3, 1, 0, 4, -1, 0};
  c.part_begin = {0, 2, 2, 3};
  c.queries = {1, 2};
  c.query_begin = {0, 1};
  // Dots 5, 8, -1: parts max(5, 8), none, -1, halved.
  EXPECT_THAT(Score(*backend_, c), ::testing::ElementsAre(4.0f, kNoScore, -0.5f));
  c.shape.chunk = Reduce::kMean;
  EXPECT_THAT(Score(*backend_, c), ::testing::ElementsAre(3.25f, kNoScore, -0.5f));
}

TEST_P(RoutingContractTest, ReductionsApplyInTheirOrder) {
  // Two heads of size 1 (1 KV head), two rows. Head values of the one chunk (key 1): rows
  // (4, -2) and (1, 3). Head max first: 4, 3. Then the mean over rows: 3.5, not max of means 2.
  RoutingCase c;
  c.shape = {.num_q_heads = 2,
             .num_kv_heads = 1,
             .head_dim = 1,
             .head = Reduce::kMax,
             .query = Reduce::kMean};
  c.keys.f32 = {1};
  c.part_begin = {0, 1};
  c.queries = {4, -2, 1, 3};
  c.query_begin = {0, 2};
  EXPECT_THAT(Score(*backend_, c), ::testing::ElementsAre(3.5f));
  c.shape.query = Reduce::kLast;
  EXPECT_THAT(Score(*backend_, c), ::testing::ElementsAre(3.0f));
  c.shape.query = Reduce::kMax;
  EXPECT_THAT(Score(*backend_, c), ::testing::ElementsAre(4.0f));
}

TEST_P(RoutingContractTest, EveryReductionAndPrecision) {
  for (const Reduce head : {Reduce::kMean, Reduce::kMax}) {
    for (const Reduce query : {Reduce::kMean, Reduce::kMax, Reduce::kLast}) {
      for (const Reduce chunk : {Reduce::kMean, Reduce::kMax}) {
        for (const DType dtype : kPrecisions) {
          const RoutingShape shape = {.num_q_heads = 6,
                                      .num_kv_heads = 2,
                                      .head_dim = 16,
                                      .head = head,
                                      .query = query,
                                      .chunk = chunk,
                                      .scale = 0.7f};
          SCOPED_TRACE(::testing::Message()
                       << int(head) << int(query) << int(chunk) << " " << DTypeName(dtype));
          const RoutingCase c = MakeCase(shape, dtype, 151, {1, 7, 2}, 11);
          ExpectMatchesOracle(c, Score(*backend_, c));
        }
      }
    }
  }
}

TEST_P(RoutingContractTest, OddShapes) {
  uint32_t seed = 100;
  for (const int head_dim : {3, 16, 20, 32, 64, 128}) {
    for (const int rows : {1, 2, 3, 4, 5, 31, 70}) {
      for (const DType dtype : kPrecisions) {
        const RoutingShape shape = {.num_q_heads = 9, .num_kv_heads = 3, .head_dim = head_dim};
        SCOPED_TRACE(::testing::Message() << head_dim << " " << rows << " " << DTypeName(dtype));
        const RoutingCase c = MakeCase(shape, dtype, 1 + seed % 90, {rows}, seed);
        ExpectMatchesOracle(c, Score(*backend_, c));
        ++seed;
      }
    }
  }
}

// A backend may take long streams of keys when there is but one row: 192 elements divide none of
// the sizes that blocks have.
TEST_P(RoutingContractTest, OneRowOverManyChunks) {
  const RoutingShape shape = {.num_q_heads = 3, .num_kv_heads = 3, .head_dim = 64};
  for (const DType dtype : kPrecisions) {
    SCOPED_TRACE(std::string(DTypeName(dtype)));
    const RoutingCase c = MakeCase(shape, dtype, 12000, {1}, 30);
    ExpectMatchesOracle(c, Score(*backend_, c));
    if (HasFailure()) return;
  }
}

TEST_P(RoutingContractTest, ABanksSegmentsScoreAsEachAlone) {
  for (const DType dtype : kPrecisions) {
    const RoutingShape shape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 32};
    std::vector<RoutingCase> cases;
    std::vector<KeySegment> segments;
    int64_t num_parts = 0;
    for (const int chunks : {40, 3, 200}) {
      cases.push_back(MakeCase(shape, dtype, chunks, {5, 2}, 31 + chunks));
      num_parts += cases.back().num_parts();
    }
    for (const RoutingCase& c : cases) segments.push_back(c.Segment());
    GuardedBuffer<float> scores(2 * num_parts);
    ScoreBankArgs args;
    args.shape = shape;
    args.segments = segments;
    args.queries = cases[0].queries.data();
    args.query_begin = cases[0].query_begin;
    args.scores = scores.data();
    backend_->ScoreBank(args);
    int64_t first_part = 0;
    for (RoutingCase& c : cases) {
      c.queries = cases[0].queries;
      const std::vector<float> alone = Score(*backend_, c);
      for (int64_t i = 0; i < 2 * c.num_parts(); ++i) {
        const int64_t question = i / c.num_parts();
        EXPECT_EQ(scores[question * num_parts + first_part + i % c.num_parts()], alone[i]);
      }
      first_part += c.num_parts();
    }
  }
}

TEST_P(RoutingContractTest, NoPartsAndOnlyEmptyParts) {
  const RoutingShape shape = {.num_q_heads = 2, .num_kv_heads = 1, .head_dim = 16};
  RoutingCase c = MakeCase(shape, DType::kFloat32, 1, {2}, 3);
  c.part_begin = {0};
  EXPECT_TRUE(Score(*backend_, c).empty());
  c.part_begin = {0, 0, 0};
  EXPECT_THAT(Score(*backend_, c), ::testing::ElementsAre(kNoScore, kNoScore));
}

TEST_P(RoutingContractTest, NanInAKeyOrQuestionShowsInItsScoresOnly) {
  for (const Reduce head : {Reduce::kMean, Reduce::kMax}) {
    const RoutingShape shape = {.num_q_heads = 2, .num_kv_heads = 1, .head_dim = 16, .head = head};
    RoutingCase c = MakeCase(shape, DType::kFloat32, 10, {4, 4}, 3);
    c.part_begin = {0, 3, 6, 10};
    c.keys.f32[4 * 16 + 5] = std::numeric_limits<float>::quiet_NaN();  // chunk 4 of part 1
    const std::vector<float> scores = Score(*backend_, c);
    EXPECT_TRUE(std::isnan(scores[1]) && std::isnan(scores[4]));
    for (const int other : {0, 2, 3, 5}) EXPECT_FALSE(std::isnan(scores[other])) << other;
    c = MakeCase(shape, DType::kFloat32, 10, {4, 4}, 3);
    c.part_begin = {0, 10};
    c.queries[2 * shape.query_width()] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(Score(*backend_, c)[0]));
    EXPECT_FALSE(std::isnan(Score(*backend_, c)[1]));
  }
}

class RoutingBitsTest : public BackendTest {
 protected:
  // Every shape and precision the fused pass treats differently.
  static std::vector<RoutingCase> Cases() {
    std::vector<RoutingCase> cases;
    uint32_t seed = 500;
    for (const DType dtype : kPrecisions) {
      for (const Reduce head : {Reduce::kMean, Reduce::kMax}) {
        for (const int head_dim : {20, 64}) {
          const RoutingShape shape = {.num_q_heads = 6,
                                      .num_kv_heads = 3,
                                      .head_dim = head_dim,
                                      .head = head,
                                      .scale = 0.3f};
          cases.push_back(MakeCase(shape, dtype, 700, {1, 5, 32, 2, 1}, seed++));
        }
      }
    }
    return cases;
  }
};

TEST_P(RoutingBitsTest, DoNotDependOnWhichQuestionsShareThePass) {
  for (const RoutingCase& c : Cases()) {
    const std::vector<float> together = Score(*backend_, c);
    for (int question = 0; question < c.num_questions(); ++question) {
      const std::vector<float> alone = Score(*backend_, OneQuestion(c, question));
      for (int64_t part = 0; part < c.num_parts(); ++part) {
        EXPECT_EQ(alone[part], together[question * c.num_parts() + part]) << part;
      }
    }
  }
}

TEST_P(RoutingBitsTest, DoNotDependOnWhereThePartLies) {
  for (const RoutingCase& c : Cases()) {
    const std::vector<float> together = Score(*backend_, c);
    for (int64_t part = 0; part < c.num_parts(); ++part) {
      if (c.part_begin[part] == c.part_begin[part + 1]) continue;
      const std::vector<float> alone =
          Score(*backend_, OnePart(c, c.part_begin[part], c.part_begin[part + 1]));
      for (int question = 0; question < c.num_questions(); ++question) {
        EXPECT_EQ(alone[question], together[question * c.num_parts() + part]) << part;
      }
    }
  }
}

TEST_P(RoutingBitsTest, DoNotDependOnHowChunksAreGroupedIntoParts) {
  for (const RoutingCase& c : Cases()) {
    RoutingCase single = c;  // every chunk a part of its own
    single.part_begin.resize(701);
    for (int64_t i = 0; i <= 700; ++i) single.part_begin[i] = i;
    const std::vector<float> grouped = Score(*backend_, c);
    const std::vector<float> of_chunks = Score(*backend_, single);
    for (int question = 0; question < c.num_questions(); ++question) {
      for (int64_t part = 0; part < c.num_parts(); ++part) {
        float best = kNoScore;
        for (int64_t i = c.part_begin[part]; i < c.part_begin[part + 1]; ++i) {
          best = std::max(best, of_chunks[question * 700 + i]);
        }
        EXPECT_EQ(best, grouped[question * c.num_parts() + part]);
      }
    }
  }
}

TEST_P(RoutingBitsTest, DoNotDependOnTheNumberOfThreads) {
  const auto one = Make(1);
  const auto five = Make(5);
  const RoutingShape shape = {
      .num_q_heads = 4, .num_kv_heads = 4, .head_dim = 64, .chunk = Reduce::kMean};
  for (const DType dtype : kPrecisions) {
    const RoutingCase c = MakeCase(shape, dtype, 5000, {1, 3}, 9);
    EXPECT_EQ(Score(*one, c), Score(*five, c));
  }
}

MSA_ON_EVERY_BACKEND(RoutingContractTest);
MSA_ON_EVERY_BACKEND(RoutingBitsTest);

}  // namespace
}  // namespace msa::kernels

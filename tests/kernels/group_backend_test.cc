// A group of backends against one of them: the same scores and the same best parts, to the bit,
// however segments are spread. On a machine with GPUs their group is tested with and without NCCL.
#include "kernels/group_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/forwarding_backend.h"
#include "tests/kernels/oracle.h"

namespace msa::kernels {
namespace {

using ::msa::testing::Matrix;
using ::msa::testing::RandomFloats;
using ::msa::testing::RandomMatrix;

constexpr int kWidth = 64;

RoutingShape Shape() {
  RoutingShape shape;
  shape.num_q_heads = 2;
  shape.num_kv_heads = 2;
  shape.head_dim = kWidth / 2;
  shape.scale = 0.5f;
  return shape;
}

// Segments of mixed sizes, one of them empty, with keys that come several times: ties.
struct Bank {
  std::vector<Matrix> keys;
  std::vector<std::vector<int64_t>> part_begin;

  Bank(DType dtype, uint32_t seed) {
    std::mt19937 random(seed);
    for (const int64_t parts : {7, 0, 1, 33, 12, 5, 80}) {
      std::vector<int64_t> begin = {0};
      for (int64_t p = 0; p < parts; ++p) begin.push_back(begin.back() + random() % 4);
      keys.push_back(RandomMatrix(std::max<int64_t>(begin.back(), 1), kWidth, dtype,
                                  seed + random() % 3, 1.0));
      part_begin.push_back(begin);
    }
  }

  int64_t num_parts() const {
    int64_t parts = 0;
    for (const auto& begin : part_begin) parts += static_cast<int64_t>(begin.size()) - 1;
    return parts;
  }
};

// The bank in memory of a backend's members, dealt by `seed`.
class Resident {
 public:
  Resident(const Backend& backend, const Bank& bank, uint32_t seed) : backend_(backend) {
    std::mt19937 random(seed);
    for (size_t s = 0; s < bank.keys.size(); ++s) {
      const Matrix& keys = bank.keys[s];
      const auto& begin = bank.part_begin[s];
      KeySegment segment;
      segment.member = static_cast<int>(random() % backend.num_members());
      const Backend& member = backend.member(segment.member);
      segment.dtype = keys.dtype;
      segment.num_chunks = begin.back();
      segment.keys = Put(member, keys.data(), segment.num_chunks * kWidth * DTypeBytes(keys.dtype));
      if (!keys.scales.empty()) {
        segment.scales = static_cast<const float*>(
            Put(member, keys.scales.data(), segment.num_chunks * sizeof(float)));
      }
      segment.part_begin = {
          static_cast<const int64_t*>(Put(member, begin.data(), begin.size() * sizeof(int64_t))),
          begin.size()};
      // Without a bound of their norms, scans of them do not round.
      const float none = 0;
      auto* norm = static_cast<float*>(const_cast<void*>(Put(member, &none, sizeof(none))));
      member.RaiseMaxNorm(segment, kWidth, 0, norm);
      segment.max_norm = norm;
      segments_.push_back(segment);
    }
  }

  // [num_questions, num_parts] in memory of the backend.
  Buffer Score(const std::vector<float>& queries, const std::vector<int32_t>& query_begin,
               int64_t num_parts) const {
    auto scores = backend_.Allocate((query_begin.size() - 1) * num_parts * sizeof(float));
    EXPECT_TRUE(scores.ok()) << scores.status();
    ScoreInto(queries, query_begin, scores->as<float>());
    return *std::move(scores);
  }
  // As Score, rounded where the backend does; the error of each question in `errors`.
  Buffer ScoreBounded(const std::vector<float>& queries, const std::vector<int32_t>& query_begin,
                      int64_t num_parts, std::vector<float>* errors) const {
    const size_t questions = query_begin.size() - 1;
    auto memory = backend_.Allocate(questions * (num_parts + 1) * sizeof(float));
    EXPECT_TRUE(memory.ok()) << memory.status();
    float* on_backend = memory->as<float>() + questions * num_parts;
    backend_.ScoreBank({Shape(), segments_, queries.data(), query_begin, memory->as<float>(),
                        ScanMode::kBounded, on_backend});
    errors->resize(questions);
    backend_.Copy(errors->data(), on_backend, questions * sizeof(float));
    return *std::move(memory);
  }
  std::vector<float> ScoreListed(const float* queries, int32_t num_rows,
                                 const std::vector<int32_t>& columns) const {
    std::vector<float> scores(columns.size());
    backend_.ScoreListed({Shape(), segments_, queries, num_rows, columns, scores.data()});
    return scores;
  }
  BestListed ListBest(const float* queries, int32_t num_rows, const float* scores,
                      const float* error, int k) const {
    return backend_.ListBest({Shape(), segments_, queries, num_rows, scores, error, k});
  }
  void ScoreInto(const std::vector<float>& queries, const std::vector<int32_t>& query_begin,
                 float* scores) const {
    backend_.ScoreBank(
        {Shape(), segments_, queries.data(), query_begin, scores, ScanMode::kExact, nullptr});
  }

 private:
  const void* Put(const Backend& member, const void* data, size_t bytes) {
    buffers_.push_back(*member.Allocate(std::max<size_t>(bytes, 1), Backend::Purpose::kResident));
    member.Copy(buffers_.back().data(), data, bytes);
    return buffers_.back().data();
  }

  const Backend& backend_;
  std::vector<Buffer> buffers_;
  std::vector<KeySegment> segments_;
};

std::vector<float> Fetch(const Backend& backend, const float* scores, int64_t n) {
  std::vector<float> host(n);
  backend.Copy(host.data(), scores, n * sizeof(float));
  return host;
}

// Bits, so that NaN equals NaN.
bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void ExpectSameBest(const Backend& one, const float* row, const Backend& group,
                    const float* group_row, int64_t n) {
  for (const int k : {1, 16, 48, 1024}) {
    const auto best = one.TopIndices(row, n, k);
    const auto found = group.TopIndices(group_row, n, k);
    ASSERT_EQ(best.size(), found.size());
    for (size_t i = 0; i < best.size(); ++i) {
      EXPECT_EQ(best[i].index, found[i].index) << "place " << i;
      EXPECT_EQ(best[i].score, found[i].score);
    }
  }
}

// What rounded scores need: errors that hold, exact scores of some parts.
void ExpectSameExactness(const Resident& alone, const Backend& group, const Resident& spread,
                         const std::vector<float>& queries, const std::vector<int32_t>& query_begin,
                         int64_t n, const std::vector<float>& exact) {
  std::vector<float> errors;
  const Buffer rounded = spread.ScoreBounded(queries, query_begin, n, &errors);
  for (size_t q = 0; q < errors.size(); ++q) {
    const auto row = Fetch(group, rounded.as<float>() + q * n, n);
    for (int64_t i = 0; i < n && std::isfinite(errors[q]); ++i) {
      if (std::isnan(exact[q * n + i]) || exact[q * n + i] == kNoScore) continue;
      EXPECT_LE(std::abs(row[i] - exact[q * n + i]), errors[q]) << "question " << q;
    }
  }
  std::vector<int32_t> columns;
  for (int32_t column = static_cast<int32_t>(n) - 1; column >= 0; column -= 3) {
    columns.push_back(column);
  }
  const int32_t rows = query_begin.back() - query_begin[2];
  const float* last = queries.data() + query_begin[2] * kWidth;
  EXPECT_TRUE(
      SameBits(alone.ScoreListed(last, rows, columns), spread.ScoreListed(last, rows, columns)));
}

// The best of rounded scores with their exact ones: the group's own scores' best.
void ExpectSameListing(const Resident& spread, const Backend& group,
                       const std::vector<float>& queries, const std::vector<int32_t>& query_begin,
                       int64_t n, const std::vector<float>& exact) {
  std::vector<float> errors;
  const Buffer memory = spread.ScoreBounded(queries, query_begin, n, &errors);
  for (size_t q = 0; q < errors.size(); ++q) {
    const float* row = memory.as<float>() + q * n;
    for (const int k : {1, 20, 1024}) {
      const auto best = spread.ListBest(queries.data() + query_begin[q] * kWidth,
                                        query_begin[q + 1] - query_begin[q], row,
                                        memory.as<float>() + errors.size() * n + q, k);
      const auto order = group.TopIndices(row, n, k);
      ASSERT_EQ(best.parts.size(), order.size());
      for (size_t i = 0; i < order.size(); ++i) {
        EXPECT_EQ(best.parts[i].index, order[i].index) << "place " << i;
        EXPECT_EQ(best.parts[i].score, order[i].score);
        EXPECT_EQ(best.parts[i].exact, exact[q * n + order[i].index]) << "place " << i;
      }
      EXPECT_TRUE(SameBits({best.error}, {errors[q]}));
    }
  }
}

// Means of the three questions' rows, as if they were layers.
void ExpectSameMeans(const Backend& one, const float* rows, const Backend& group,
                     const float* group_rows, int64_t n) {
  const Buffer mean = *one.Allocate(n * sizeof(float));
  const Buffer group_mean = *group.Allocate(n * sizeof(float));
  one.MeanOfScores({rows, rows + n, rows + 2 * n}, n, mean.as<float>());
  group.MeanOfScores({group_rows, group_rows + n, group_rows + 2 * n}, n, group_mean.as<float>());
  EXPECT_TRUE(SameBits(Fetch(one, mean.as<float>(), n), Fetch(group, group_mean.as<float>(), n)));
  ExpectSameBest(one, mean.as<float>(), group, group_mean.as<float>(), n);
}

void ExpectSameAnswers(const Backend& one, const Backend& group, DType dtype, uint32_t seed) {
  Bank bank(dtype, seed);
  if (dtype == DType::kFloat32) {
    std::fill_n(bank.keys[3].f32.begin(), kWidth, std::numeric_limits<float>::quiet_NaN());
  }
  const std::vector<int32_t> query_begin = {0, 1, 6, 46};
  const auto queries = RandomFloats(query_begin.back() * kWidth, seed + 9, 0.3);
  const int64_t n = bank.num_parts();
  const Resident alone(one, bank, seed), spread(group, bank, seed);
  const Buffer expected = alone.Score(queries, query_begin, n);
  const Buffer scores = spread.Score(queries, query_begin, n);
  for (int64_t q = 0; q < 3; ++q) {
    const float* row = expected.as<float>() + q * n;
    const float* group_row = scores.as<float>() + q * n;
    EXPECT_TRUE(SameBits(Fetch(one, row, n), Fetch(group, group_row, n))) << "question " << q;
    ExpectSameBest(one, row, group, group_row, n);
  }
  ExpectSameMeans(one, expected.as<float>(), group, scores.as<float>(), n);
  ExpectSameExactness(alone, group, spread, queries, query_begin, n,
                      Fetch(one, expected.as<float>(), 3 * n));
  ExpectSameListing(spread, group, queries, query_begin, n,
                    Fetch(one, expected.as<float>(), 3 * n));
  EXPECT_TRUE(group.Health().ok()) << group.Health();
}

class GroupOfCpus : public ::testing::TestWithParam<std::tuple<int, DType>> {};

TEST_P(GroupOfCpus, AnswersAsOneOfThem) {
  std::vector<std::unique_ptr<Backend>> owned;
  std::vector<const Backend*> members;
  for (int i = 0; i < std::get<0>(GetParam()); ++i) {
    owned.push_back(*MakeBackend("cpu", 1));
    members.push_back(owned.back().get());
  }
  const auto group = MakeGroupBackend(members, nullptr);
  for (uint32_t seed = 0; seed < 5; ++seed) {
    ExpectSameAnswers(*owned[0], *group, std::get<1>(GetParam()), seed);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, GroupOfCpus,
                         ::testing::Combine(::testing::Values(1, 2, 4),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16,
                                                              DType::kInt8)),
                         [](const auto& info) {
                           return std::to_string(std::get<0>(info.param)) + "_" +
                                  std::string(DTypeName(std::get<1>(info.param)));
                         });

TEST(GroupBackend, ScoresStayUntilTheirMemoryIsWrittenAgain) {
  const auto one = *MakeBackend("cpu", 1);
  const auto other = *MakeBackend("cpu", 1);
  const auto group = MakeGroupBackend({one.get(), other.get()}, nullptr);
  const Bank bank(DType::kFloat32, 1);
  const Resident resident(*group, bank, 1);
  const int64_t n = bank.num_parts();
  const auto first = RandomFloats(kWidth, 5, 0.3), second = RandomFloats(kWidth, 6, 0.3);
  const Buffer scores = resident.Score(first, {0, 1}, n);
  const auto of_first = Fetch(*group, scores.as<float>(), n);
  const Buffer elsewhere = resident.Score(second, {0, 1}, n);
  const auto of_second = Fetch(*group, elsewhere.as<float>(), n);
  EXPECT_FALSE(SameBits(of_first, of_second));
  EXPECT_TRUE(SameBits(of_first, Fetch(*group, scores.as<float>(), n)));
  resident.ScoreInto(second, {0, 1}, scores.as<float>());
  EXPECT_TRUE(SameBits(of_second, Fetch(*group, scores.as<float>(), n)));
}

// Fails, or does not, when it is told.
class FailingBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  absl::Status Health() const override {
    return failed ? absl::UnavailableError("GPU 1 failed") : absl::OkStatus();
  }
  bool failed = false;
};

// Has no memory when it is told so.
class FullBackend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  absl::StatusOr<Buffer> Allocate(size_t bytes, Purpose purpose) const override {
    if (full) return absl::ResourceExhaustedError("full");
    return ForwardingBackend::Allocate(bytes, purpose);
  }
  bool full = false;
};

class LostCollective : public Collective {
 public:
  absl::Status AllGather(absl::Span<const void* const>, size_t, void*) override {
    error_ = absl::UnavailableError("a GPU did not answer");
    return error_;
  }
  absl::Status Health() const override { return error_; }

 private:
  absl::Status error_;
};

TEST(GroupBackend, AFailedMemberIsToldAndNothingIsGathered) {
  const auto one = *MakeBackend("cpu", 1);
  FailingBackend failing(*one);
  const auto group = MakeGroupBackend({one.get(), &failing}, nullptr);
  const Bank bank(DType::kFloat32, 1);
  const Resident resident(*group, bank, 1);
  const Buffer scores = resident.Score(RandomFloats(kWidth, 5, 0.3), {0, 1}, bank.num_parts());
  failing.failed = true;
  EXPECT_TRUE(group->TopIndices(scores.as<float>(), bank.num_parts(), 4).empty());
  const std::vector<float> queries(kWidth);
  EXPECT_TRUE(resident.ListBest(queries.data(), 1, scores.as<float>(), nullptr, 4).parts.empty());
  EXPECT_EQ(group->Health().message(), "GPU 1 failed");
}

TEST(GroupBackend, WhatFellBackIsThatOfAllMembers) {
  class Fallen : public ForwardingBackend {
   public:
    using ForwardingBackend::ForwardingBackend;
    int64_t host_tier_bytes() const override { return 7; }
  };
  const auto one = *MakeBackend("cpu", 1);
  const Fallen a(*one), b(*one);
  EXPECT_EQ(MakeGroupBackend({one.get(), &a, &b}, nullptr)->host_tier_bytes(), 14);
}

TEST(GroupBackend, AMembersWantOfMemoryIsThePassesAlone) {
  const auto one = *MakeBackend("cpu", 1);
  FullBackend tight(*one);
  const auto group = MakeGroupBackend({one.get(), &tight}, nullptr);
  const Bank bank(DType::kFloat32, 1);
  const Resident resident(*group, bank, 1);
  const int64_t n = bank.num_parts();
  const std::vector<float> queries = RandomFloats(kWidth, 5, 0.3);
  const auto top = [&](const float* scores) {
    std::vector<int64_t> columns;
    for (const auto& part : group->TopIndices(scores, n, 4)) columns.push_back(part.index);
    return columns;
  };
  const Buffer good = resident.Score(queries, {0, 1}, n);
  const std::vector<int64_t> expected = top(good.as<float>());
  ASSERT_EQ(expected.size(), 4u);
  EXPECT_TRUE(group->StatusOf(good.as<float>()).ok());

  tight.full = true;
  const Buffer lacking = resident.Score(queries, {0, 1}, n);
  tight.full = false;
  EXPECT_TRUE(absl::IsResourceExhausted(group->StatusOf(lacking.as<float>())));
  // Nor is there a mean, over whichever layer it is lacking.
  const Buffer mean = *group->Allocate(n * sizeof(float));
  group->MeanOfScores({good.as<float>(), lacking.as<float>()}, n, mean.as<float>());
  EXPECT_TRUE(absl::IsResourceExhausted(group->StatusOf(mean.as<float>())));
  EXPECT_TRUE(top(mean.as<float>()).empty());
  EXPECT_TRUE(top(lacking.as<float>()).empty());
  EXPECT_TRUE(
      std::isnan(resident.ListBest(queries.data(), 1, lacking.as<float>(), nullptr, 4).error));
  tight.full = true;  // room for the mean itself
  group->MeanOfScores({good.as<float>(), good.as<float>()}, n, mean.as<float>());
  tight.full = false;
  EXPECT_TRUE(absl::IsResourceExhausted(group->StatusOf(mean.as<float>())));
  EXPECT_TRUE(top(mean.as<float>()).empty());

  // No room for a list.
  const Buffer listed = resident.Score(queries, {0, 1}, n);
  const Buffer other = resident.Score(queries, {0, 1}, n);
  std::vector<float> twice = queries;
  twice.insert(twice.end(), queries.begin(), queries.end());
  const Buffer both = resident.Score(twice, {0, 1, 2}, n);
  tight.full = true;
  EXPECT_TRUE(top(both.as<float>()).empty());
  EXPECT_TRUE(top(listed.as<float>()).empty());
  EXPECT_TRUE(resident.ListBest(queries.data(), 1, other.as<float>(), nullptr, 4).parts.empty());
  tight.full = false;
  EXPECT_TRUE(absl::IsResourceExhausted(group->StatusOf(listed.as<float>())));
  EXPECT_TRUE(absl::IsResourceExhausted(group->StatusOf(other.as<float>())));
  // The list of one question is not the other's, nor the scores'.
  EXPECT_TRUE(absl::IsResourceExhausted(group->StatusOf(both.as<float>())));
  EXPECT_TRUE(group->StatusOf(both.as<float>() + n).ok());
  EXPECT_EQ(top(both.as<float>() + n), expected);
  group->MeanOfScores({both.as<float>(), good.as<float>()}, n, mean.as<float>());
  EXPECT_TRUE(group->StatusOf(mean.as<float>()).ok());
  EXPECT_EQ(top(mean.as<float>()), expected);

  EXPECT_TRUE(group->Health().ok()) << group->Health();
  EXPECT_TRUE(group->StatusOf(good.as<float>()).ok());
  const Buffer next = resident.Score(queries, {0, 1}, n);
  EXPECT_TRUE(group->StatusOf(next.as<float>()).ok());
  EXPECT_EQ(top(next.as<float>()), expected);
}

TEST(GroupBackend, APeerThatDoesNotAnswerMakesItUnavailable) {
  const auto one = *MakeBackend("cpu", 1);
  const auto other = *MakeBackend("cpu", 1);
  const auto group = MakeGroupBackend({one.get(), other.get()}, std::make_unique<LostCollective>());
  const Bank bank(DType::kFloat32, 1);
  const Resident resident(*group, bank, 1);
  const Buffer scores = resident.Score(RandomFloats(kWidth, 5, 0.3), {0, 1}, bank.num_parts());
  EXPECT_TRUE(group->Health().ok());
  EXPECT_TRUE(group->TopIndices(scores.as<float>(), bank.num_parts(), 4).empty());
  EXPECT_TRUE(absl::IsUnavailable(group->Health()));
}

TEST(GroupBackend, SeveralGpusAreForCuda) {
  EXPECT_TRUE(absl::IsInvalidArgument(BackendSet::Make("cpu", {}, {0, 1}).status()));
  EXPECT_EQ(BackendSet::Make("cpu", {.num_threads = 1}, {0})->size(), 1);
}

// The GPUs of this machine, 1, 2 and 4 of them.
class GroupOfGpus : public ::testing::TestWithParam<int> {};

TEST_P(GroupOfGpus, AnswersAsOneOfThem) {
  std::vector<int> gpus;
  for (int i = 0; i < GetParam(); ++i) gpus.push_back(i);
  const auto set = BackendSet::Make("cuda", {}, gpus);
  if (!set.ok()) GTEST_SKIP() << set.status();
  std::vector<const Backend*> members;
  for (int i = 0; i < set->size(); ++i) members.push_back(&set->member(i));
  const auto by_processor = MakeGroupBackend(members, nullptr);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
    for (uint32_t seed = 0; seed < 3; ++seed) {
      ExpectSameAnswers(set->member(0), set->memory(), dtype, seed);
      ExpectSameAnswers(set->member(0), *by_processor, dtype, seed);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, GroupOfGpus, ::testing::Values(1, 2, 4));

}  // namespace
}  // namespace msa::kernels

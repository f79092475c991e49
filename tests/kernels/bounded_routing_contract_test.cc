// The contract of rounded scans: errors that hold, exact scores of listed parts to the bit of the
// full scan, norms of keys and means of scores. `reference` and `cpu` never round: there the errors
// are 0 and the rest is theirs too.
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "tests/kernels/backend_fixture.h"
#include "tests/kernels/oracle.h"
#include "tests/support/guarded_buffer.h"

namespace msa::kernels {
namespace {

using ::msa::testing::BackendTest;
using ::msa::testing::GuardedBuffer;
using ::msa::testing::Matrix;
using ::msa::testing::RandomFloats;
using ::msa::testing::RandomMatrix;

constexpr DType kPrecisions[] = {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8};

// A bank of three segments, in memory of the processor.
struct Bank {
  RoutingShape shape;
  std::vector<Matrix> keys;
  std::vector<std::vector<int64_t>> part_begin;
  std::vector<float> max_norms;

  std::vector<KeySegment> Segments() const {
    std::vector<KeySegment> segments;
    for (size_t i = 0; i < keys.size(); ++i) {
      segments.push_back({.keys = keys[i].data(),
                          .scales = keys[i].scales.empty() ? nullptr : keys[i].scales.data(),
                          .dtype = keys[i].dtype,
                          .part_begin = part_begin[i],
                          .max_norm = &max_norms[i]});
    }
    return segments;
  }
  int64_t num_parts() const {
    int64_t parts = 0;
    for (const auto& begin : part_begin) parts += static_cast<int64_t>(begin.size()) - 1;
    return parts;
  }
};

Bank MakeBank(const Backend& backend, const RoutingShape& shape, DType dtype, uint32_t seed) {
  Bank bank;
  bank.shape = shape;
  bank.max_norms.resize(3);
  for (const int chunks : {91, 5, 40}) {
    bank.keys.push_back(RandomMatrix(chunks, shape.key_width(), dtype, seed + chunks, 1.0));
    std::vector<int64_t> begin = {0};
    for (int size = 0; begin.back() < chunks; size = (size + 1) % 12) {
      begin.push_back(std::min<int64_t>(chunks, begin.back() + size));
    }
    bank.part_begin.push_back(begin);
  }
  const auto segments = bank.Segments();
  for (size_t i = 0; i < segments.size(); ++i) {
    backend.RaiseMaxNorm(segments[i], shape.key_width(), 0, &bank.max_norms[i]);
  }
  return bank;
}

struct Scan {
  std::vector<float> scores;
  std::vector<float> errors;
};

Scan RunScan(const Backend& backend, const Bank& bank, const std::vector<float>& queries,
             const std::vector<int32_t>& query_begin, ScanMode mode) {
  const size_t questions = query_begin.size() - 1;
  GuardedBuffer<float> scores(questions * bank.num_parts());
  GuardedBuffer<float> errors(questions);
  const auto segments = bank.Segments();
  ScoreBankArgs args;
  args.shape = bank.shape;
  args.segments = segments;
  args.queries = queries.data();
  args.query_begin = query_begin;
  args.scores = scores.data();
  args.mode = mode;
  args.errors = errors.data();
  if (!backend.ScoreBank(args)) {
    for (size_t q = 0; q < questions; ++q) EXPECT_EQ(errors.data()[q], 0);
  } else {
    EXPECT_NE(mode, ScanMode::kExact);
  }
  return {{scores.data(), scores.data() + scores.size()},
          {errors.data(), errors.data() + errors.size()}};
}

std::vector<int32_t> QueryBegin(const std::vector<int>& rows) {
  std::vector<int32_t> begin = {0};
  for (const int n : rows) begin.push_back(begin.back() + n);
  return begin;
}

class BoundedRoutingTest : public BackendTest {};

TEST_P(BoundedRoutingTest, NoScoreIsFurtherFromTheExactOneThanItsError) {
  // Where nothing is rounded few shapes say as much.
  const bool rounds = backend_->name() == "cuda";
  const std::vector<int> head_dims = rounds ? std::vector{16, 64, 128, 256} : std::vector{16};
  uint32_t seed = 40;
  for (const DType dtype : kPrecisions) {
    for (const int head_dim : head_dims) {
      for (const auto& rows : std::vector<std::vector<int>>{
               {3}, {40}, {64}, {1, 70, 9}, {170}, {130, 140, 2}, {300, 300}}) {
        RoutingShape shape = {.num_q_heads = 8, .num_kv_heads = 4, .head_dim = head_dim};
        shape.scale = seed % 2 == 0 ? 1.0f : 0.3f;
        const Bank bank = MakeBank(*backend_, shape, dtype, seed++);
        const auto begin = QueryBegin(rows);
        // Rows of different sizes: the error is of the largest.
        std::vector<float> queries = RandomFloats(begin.back() * shape.query_width(), seed,
                                                  1.0 / std::sqrt(shape.query_width()));
        for (size_t i = 0; i < queries.size(); ++i) {
          queries[i] *= static_cast<float>(1 + i / shape.query_width() % 5);
        }
        const Scan exact = RunScan(*backend_, bank, queries, begin, ScanMode::kExact);
        for (const ScanMode mode : {ScanMode::kBounded, ScanMode::kLoose}) {
          const Scan bounded = RunScan(*backend_, bank, queries, begin, mode);
          for (size_t q = 0; q < rows.size(); ++q) {
            SCOPED_TRACE(::testing::Message() << DTypeName(dtype) << " " << head_dim << " rows "
                                              << rows[q] << " error " << bounded.errors[q]);
            EXPECT_EQ(exact.errors[q], 0);
            ASSERT_GE(bounded.errors[q], 0);
            // Of questions of norm 1 … 5 and keys of norm sqrt(width): still of use.
            const int of_norms = mode == ScanMode::kLoose ? 50 : 100;
            EXPECT_LT(bounded.errors[q], 5 * std::sqrt(shape.key_width()) / of_norms);
            for (int64_t p = 0; p < bank.num_parts(); ++p) {
              const float want = exact.scores[q * bank.num_parts() + p];
              const float got = bounded.scores[q * bank.num_parts() + p];
              if (want == kNoScore || bounded.errors[q] == 0) {
                EXPECT_EQ(got, want);
              } else {
                EXPECT_LE(std::abs(got - want), bounded.errors[q]);
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(BoundedRoutingTest, WithoutNormsScoresAreExact) {
  const RoutingShape shape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 64};
  const Bank bank = MakeBank(*backend_, shape, DType::kBFloat16, 7);
  const std::vector<float> queries = RandomFloats(100 * shape.query_width(), 8, 0.1);
  auto segments = bank.Segments();
  segments[1].max_norm = nullptr;
  GuardedBuffer<float> scores(bank.num_parts());
  GuardedBuffer<float> errors(1);
  const std::vector<int32_t> begin = {0, 100};
  ScoreBankArgs args;
  args.shape = shape;
  args.segments = segments;
  args.queries = queries.data();
  args.query_begin = begin;
  args.scores = scores.data();
  args.mode = ScanMode::kBounded;
  args.errors = errors.data();
  backend_->ScoreBank(args);
  EXPECT_EQ(errors.data()[0], 0);
  const Scan exact = RunScan(*backend_, bank, queries, begin, ScanMode::kExact);
  for (int64_t p = 0; p < bank.num_parts(); ++p) EXPECT_EQ(scores.data()[p], exact.scores[p]);
}

TEST_P(BoundedRoutingTest, ListedPartsHaveTheBitsOfTheScan) {
  uint32_t seed = 90;
  for (const DType dtype : kPrecisions) {
    for (const Reduce head : {Reduce::kMean, Reduce::kMax}) {
      for (const Reduce query : {Reduce::kMax, Reduce::kMean, Reduce::kLast}) {
        for (const int head_dim : {20, 64}) {
          const RoutingShape shape = {.num_q_heads = 6,
                                      .num_kv_heads = 2,
                                      .head_dim = head_dim,
                                      .head = head,
                                      .query = query,
                                      .scale = 0.7f};
          const Bank bank = MakeBank(*backend_, shape, dtype, seed++);
          const int rows = 1 + static_cast<int>(seed * 37 % 150);
          const std::vector<float> queries = RandomFloats(rows * shape.query_width(), seed, 0.1);
          const Scan scan = RunScan(*backend_, bank, queries, {0, rows}, ScanMode::kExact);
          std::vector<int32_t> parts;
          for (int64_t p = 0; p < bank.num_parts(); p += 1 + p % 3) {
            parts.insert(parts.begin(), static_cast<int32_t>(p));  // in no useful order
          }
          GuardedBuffer<float> scores(parts.size());
          const auto segments = bank.Segments();
          backend_->ScoreListed({shape, segments, queries.data(), rows, parts, scores.data()});
          for (size_t i = 0; i < parts.size(); ++i) {
            EXPECT_EQ(scores.data()[i], scan.scores[parts[i]])
                << DTypeName(dtype) << " " << int(head) << int(query) << " " << head_dim;
          }
        }
      }
    }
  }
}

TEST_P(BoundedRoutingTest, ListedPartsOfAnySizeAndWidthHaveTheBitsOfTheScan) {
  uint32_t seed = 500;
  for (const DType dtype : kPrecisions) {
    for (const int head_dim : {24, 512, 2048}) {  // widths of 48, 1,024 and 4,096
      const RoutingShape shape = {.num_q_heads = 2, .num_kv_heads = 2, .head_dim = head_dim};
      Bank bank = MakeBank(*backend_, shape, dtype, seed++);
      // Of one segment parts of the sizes that are about those of a product, and one of many.
      bank.part_begin[0] = {0, 0, 1, 16, 33, 49, 91};
      const int rows = head_dim == 24 ? 75 : 9;
      const std::vector<float> queries = RandomFloats(rows * shape.query_width(), seed, 0.1);
      const Scan scan = RunScan(*backend_, bank, queries, {0, rows}, ScanMode::kExact);
      std::vector<int32_t> parts(bank.num_parts());
      for (size_t p = 0; p < parts.size(); ++p) parts[p] = static_cast<int32_t>(p);
      GuardedBuffer<float> scores(parts.size());
      const auto segments = bank.Segments();
      backend_->ScoreListed({shape, segments, queries.data(), rows, parts, scores.data()});
      for (size_t p = 0; p < parts.size(); ++p) {
        EXPECT_EQ(scores.data()[p], scan.scores[p]) << DTypeName(dtype) << " " << head_dim;
      }
    }
  }
}

// A bank's segments in memory of the backend.
class Resident {
 public:
  Resident(const Backend& backend, const Bank& bank) : segments_(bank.Segments()) {
    const int64_t width = bank.shape.key_width();
    for (KeySegment& segment : segments_) {
      segment.num_chunks = segment.part_begin.back();
      segment.keys =
          Put(backend, static_cast<const char*>(segment.keys),
              segment.num_chunks * width * static_cast<int64_t>(DTypeBytes(segment.dtype)));
      if (HasScales(segment.dtype)) {
        segment.scales = Put(backend, segment.scales, segment.num_chunks);
      }
      segment.part_begin = {Put(backend, segment.part_begin.data(), segment.part_begin.size()),
                            segment.part_begin.size()};
      segment.max_norm = Put(backend, segment.max_norm, 1);
    }
  }
  const std::vector<KeySegment>& segments() const { return segments_; }

 private:
  template <typename T>
  const T* Put(const Backend& backend, const T* data, int64_t count) {
    buffers_.push_back(*CopyToBackend(backend, data, count * sizeof(T)));
    return buffers_.back().template as<T>();
  }

  std::vector<KeySegment> segments_;
  std::vector<Buffer> buffers_;
};

// A pass, and what ListBest and ListBestInto say of one of its questions.
struct Listing {
  std::vector<float> scores;  // of the question
  float error = 0;
  bool rounded = false;
  BestListed best;
  BestListed left;
};

Listing ListQuestion(const Backend& backend, const Bank& bank,
                     const std::vector<KeySegment>& segments, const std::vector<float>& queries,
                     const std::vector<int32_t>& query_begin, int question, ScanMode mode, int k) {
  const auto questions = static_cast<int64_t>(query_begin.size()) - 1;
  const int64_t n = bank.num_parts();
  const Buffer memory = *backend.Allocate(questions * (n + 1) * sizeof(float));
  const Buffer kept = *CopyToBackend(backend, queries.data(), queries.size() * sizeof(float));
  float* errors = memory.as<float>() + questions * n;
  Listing listing;
  listing.rounded = backend.ScoreBank(
      {bank.shape, segments, kept.as<float>(), query_begin, memory.as<float>(), mode, errors});
  ListBestArgs args;
  args.shape = bank.shape;
  args.segments = segments;
  args.queries = kept.as<float>() + query_begin[question] * bank.shape.query_width();
  args.num_rows = query_begin[question + 1] - query_begin[question];
  args.scores = memory.as<float>() + question * n;
  args.error = errors + question;
  args.k = k;
  listing.best = backend.ListBest(args);
  const Buffer out = *backend.Allocate(ListBestBytes(k));
  backend.ListBestInto(args, out.data());
  std::vector<char> found(ListBestBytes(k));
  backend.Copy(found.data(), out.data(), found.size());
  listing.left = ParseListBest(found.data(), k);
  listing.scores.resize(n);
  backend.Copy(listing.scores.data(), args.scores, n * sizeof(float));
  backend.Copy(&listing.error, args.error, sizeof(float));
  return listing;
}

// The list is that of the scores, the exact scores are the exact scan's.
void ExpectListed(const Listing& listing, const BestListed& best,
                  const std::vector<Backend::IndexedScore>& order, const float* exact) {
  ASSERT_EQ(best.parts.size(), order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(best.parts[i].index, order[i].index) << "place " << i;
    EXPECT_EQ(best.parts[i].score, order[i].score);
    EXPECT_EQ(best.parts[i].exact, exact[order[i].index]) << "place " << i;
  }
  EXPECT_EQ(best.error, listing.error);
}

TEST_P(BoundedRoutingTest, TheBestAreListedWithTheirExactScoresAndTheError) {
  uint32_t seed = 700;
  for (const DType dtype : kPrecisions) {
    for (const int head_dim : {20, 64}) {  // 20: not by the matrix units
      for (const auto& rows : std::vector<std::vector<int>>{{1}, {9}, {54}, {3, 70, 2}, {170}}) {
        const RoutingShape shape = {.num_q_heads = 6, .num_kv_heads = 2, .head_dim = head_dim};
        const Bank bank = MakeBank(*backend_, shape, dtype, seed++);
        const auto begin = QueryBegin(rows);
        const auto queries = RandomFloats(begin.back() * shape.query_width(), seed, 0.1);
        const Scan exact = RunScan(*backend_, bank, queries, begin, ScanMode::kExact);
        for (const int k : {1, 7, 1024}) {
          const int question = static_cast<int>(seed % rows.size());
          SCOPED_TRACE(::testing::Message() << DTypeName(dtype) << " " << head_dim << " rows "
                                            << rows[question] << " k " << k);
          const Listing listing = ListQuestion(*backend_, bank, bank.Segments(), queries, begin,
                                               question, ScanMode::kBounded, k);
          if (!listing.rounded) {
            EXPECT_EQ(listing.error, 0);
          }
          const auto order = backend_->TopIndices(listing.scores.data(), bank.num_parts(), k);
          const float* scores = exact.scores.data() + question * bank.num_parts();
          ExpectListed(listing, listing.best, order, scores);
          ExpectListed(listing, listing.left, order, scores);
        }
      }
    }
  }
}

// More parts than one slice of a selection; several threads share what a device has one of.
TEST_P(BoundedRoutingTest, ListsAreTheSameWhateverOtherThreadsAskFor) {
  constexpr int kParts = 9000, kThreads = 4, kK = 128;
  const RoutingShape shape = {.num_q_heads = 2, .num_kv_heads = 2, .head_dim = 32};
  Bank bank = MakeBank(*backend_, shape, DType::kBFloat16, 900);
  bank.keys[1] = RandomMatrix(kParts, shape.key_width(), DType::kBFloat16, 901, 1.0);
  bank.part_begin[1].resize(kParts + 1);
  std::iota(bank.part_begin[1].begin(), bank.part_begin[1].end(), 0);
  backend_->RaiseMaxNorm(bank.Segments()[1], shape.key_width(), 0, &bank.max_norms[1]);
  const Resident resident(*backend_, bank);
  const std::vector<int32_t> begin = {0, 40};
  std::vector<std::vector<float>> queries;
  std::vector<Listing> alone;
  for (int t = 0; t < kThreads; ++t) {
    queries.push_back(RandomFloats(begin.back() * shape.query_width(), 910 + t, 0.1));
    alone.push_back(ListQuestion(*backend_, bank, resident.segments(), queries[t], begin, 0,
                                 ScanMode::kBounded, kK));
  }
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const int repeats = backend_->memory_is_host() ? 2 : 50;
      for (int i = 0; i < repeats; ++i) {
        const Listing again = ListQuestion(*backend_, bank, resident.segments(), queries[t], begin,
                                           0, ScanMode::kBounded, kK);
        ASSERT_EQ(again.best.parts.size(), alone[t].best.parts.size());
        for (size_t p = 0; p < again.best.parts.size(); ++p) {
          ASSERT_EQ(again.best.parts[p].index, alone[t].best.parts[p].index);
          ASSERT_EQ(again.best.parts[p].score, alone[t].best.parts[p].score);
          ASSERT_EQ(again.best.parts[p].exact, alone[t].best.parts[p].exact);
          ASSERT_EQ(again.left.parts[p].exact, alone[t].best.parts[p].exact);
        }
        ASSERT_EQ(again.error, alone[t].error);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(backend_->Health().ok()) << backend_->Health();
}

TEST_P(BoundedRoutingTest, NothingIsListedOfNoParts) {
  const RoutingShape shape = {.num_q_heads = 2, .num_kv_heads = 2, .head_dim = 16};
  const std::vector<float> queries = RandomFloats(shape.query_width(), 1);
  ListBestArgs args;
  args.shape = shape;
  args.queries = queries.data();
  args.num_rows = 1;
  args.k = 5;
  EXPECT_TRUE(backend_->ListBest(args).parts.empty());
  std::vector<char> found(ListBestBytes(5));
  backend_->ListBestInto(args, found.data());
  EXPECT_TRUE(ParseListBest(found.data(), 5).parts.empty());
  EXPECT_EQ(ParseListBest(found.data(), 5).error, 0);
}

TEST_P(BoundedRoutingTest, NormsAreOfTheKeysFromTheFirstOn) {
  for (const DType dtype : kPrecisions) {
    const int width = 130;
    const Matrix keys = RandomMatrix(50, width, dtype, 3, 1.0);
    const std::vector<int64_t> begin = {0, 50};
    const KeySegment segment = {.keys = keys.data(),
                                .scales = keys.scales.empty() ? nullptr : keys.scales.data(),
                                .dtype = dtype,
                                .part_begin = begin};
    std::vector<double> norms;
    for (int c = 0; c < 50; ++c) {
      double squares = 0;
      for (int i = 0; i < width; ++i) {
        squares += keys.values[c * width + i] * keys.values[c * width + i];
      }
      norms.push_back(std::sqrt(squares));
    }
    for (const int first : {0, 20, 49, 50}) {
      float norm = 1.5f;
      backend_->RaiseMaxNorm(segment, width, first, &norm);
      double want = 1.5;
      for (int c = first; c < 50; ++c) want = std::max(want, norms[c]);
      EXPECT_GE(norm, want);
      EXPECT_LE(norm, want * 1.001);
    }
  }
  std::vector<float> broken(64, 1.0f);
  broken[40] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int64_t> begin = {0, 4};
  float norm = 0;
  backend_->RaiseMaxNorm({.keys = broken.data(), .part_begin = begin}, 16, 0, &norm);
  EXPECT_TRUE(std::isnan(norm));
}

TEST_P(BoundedRoutingTest, MeansAreOfSumsInDoublePrecisionAndOrder) {
  const std::vector<float> a = {1, 1e30f, kNoScore, 0.1f};
  const std::vector<float> b = {2, 1, 1, 0.7f};
  const std::vector<float> c = {6, -1e30f, 1, 0.1f};
  GuardedBuffer<float> mean(4);
  backend_->MeanOfScores({a.data(), b.data(), c.data()}, 4, mean.data());
  EXPECT_EQ(mean.data()[0], 3);
  EXPECT_EQ(mean.data()[1], 0);  // 1e30 + 1 is 1e30 in double precision too
  EXPECT_EQ(mean.data()[2], kNoScore);
  EXPECT_EQ(mean.data()[3], static_cast<float>((double{0.1f} + double{0.7f} + double{0.1f}) / 3));
}

MSA_ON_EVERY_BACKEND(BoundedRoutingTest);

}  // namespace
}  // namespace msa::kernels

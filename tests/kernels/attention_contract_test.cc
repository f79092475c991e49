// The contract of Attend: grouped heads, blocks of mixed precision, causal and full masks, decode
// batches, empty states and extreme scores.
#include <cmath>
#include <limits>
#include <memory>
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
using ::msa::testing::OracleAttention;
using ::msa::testing::RandomFloats;
using ::msa::testing::RandomMatrix;
using ::msa::testing::Tolerances;

struct BlockSpec {
  int64_t num_tokens;
  DType dtype;
};

// One sequence with the data it borrows. Not movable: args points into it.
class Sequence {
 public:
  Sequence(int num_queries, int num_q_heads, int num_kv_heads, int head_dim,
           const std::vector<BlockSpec>& blocks, BlockSpec local, uint32_t seed)
      : q_(RandomFloats(num_queries * num_q_heads * head_dim, seed)),
        out_(num_queries * num_q_heads * head_dim) {
    for (const BlockSpec& spec : blocks) views_.push_back(Add(spec, num_kv_heads, head_dim, seed));
    args_.local = Add(local, num_kv_heads, head_dim, seed);
    args_.q = q_.data();
    args_.out = out_.data();
    args_.num_queries = num_queries;
    args_.num_q_heads = num_q_heads;
    args_.num_kv_heads = num_kv_heads;
    args_.head_dim = head_dim;
    args_.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    args_.blocks = views_;
    args_.first_visible = local.num_tokens - num_queries;
  }
  Sequence(const Sequence&) = delete;

  AttentionArgs& args() { return args_; }
  std::vector<float>& q() { return q_; }
  Matrix& k(size_t block) { return *k_[block]; }
  const float* out() { return out_.data(); }
  // Blocks go to memory of the backend, as a service's do; those without scales point to NaN.
  void MoveBlocks(const Backend& backend, int num_kv_heads, int head_dim) {
    const auto move = [&](const void* data, size_t bytes) {
      moved_.push_back(*CopyToBackend(backend, data, bytes));
      return moved_.back().data();
    };
    const std::vector<float> nan(1024, std::numeric_limits<float>::quiet_NaN());
    const auto* no_scales = static_cast<const float*>(move(nan.data(), nan.size() * sizeof(float)));
    for (KvView& view : views_) {
      const int64_t rows = view.num_tokens * num_kv_heads;
      const size_t bytes = rows * head_dim * DTypeBytes(view.dtype);
      view.k = move(view.k, bytes);
      view.v = move(view.v, bytes);
      for (const float** scales : {&view.k_scales, &view.v_scales}) {
        *scales = HasScales(view.dtype)
                      ? static_cast<const float*>(move(*scales, rows * sizeof(float)))
                      : no_scales;
      }
    }
  }

  void ExpectMatchesOracle() {
    for (int query = 0; query < args_.num_queries; ++query) {
      for (int head = 0; head < args_.num_q_heads; ++head) ExpectHead(query, head);
    }
  }

 private:
  KvView Add(const BlockSpec& spec, int num_kv_heads, int head_dim, uint32_t seed) {
    // One row a (token, head), so that the matrix's scales are those of KvView.
    const int64_t rows = spec.num_tokens * num_kv_heads;
    const auto make = [&](uint32_t salt) {
      return std::make_unique<Matrix>(
          RandomMatrix(rows, head_dim, spec.dtype, seed * 31 + salt, 1.0));
    };
    k_.push_back(make(2 * k_.size() + 1));
    v_.push_back(make(2 * v_.size() + 2));
    return {.k = k_.back()->data(),
            .v = v_.back()->data(),
            .k_scales = HasScales(spec.dtype) ? k_.back()->scales.data() : nullptr,
            .v_scales = HasScales(spec.dtype) ? v_.back()->scales.data() : nullptr,
            .dtype = spec.dtype,
            .num_tokens = spec.num_tokens};
  }

  void ExpectHead(int query, int head) {
    const int dim = args_.head_dim;
    const int kv_head = head / (args_.num_q_heads / args_.num_kv_heads);
    Doubles keys;
    Doubles values;
    for (size_t b = 0; b < k_.size(); ++b) {
      const bool local = b + 1 == k_.size();
      for (size_t t = 0; t < k_[b]->values.size() / (args_.num_kv_heads * dim); ++t) {
        if (local && args_.causal && static_cast<int64_t>(t) > args_.first_visible + query) break;
        const size_t at = (t * args_.num_kv_heads + kv_head) * dim;
        keys.insert(keys.end(), k_[b]->values.begin() + at, k_[b]->values.begin() + at + dim);
        values.insert(values.end(), v_[b]->values.begin() + at, v_[b]->values.begin() + at + dim);
      }
    }
    const int64_t at = (static_cast<int64_t>(query) * args_.num_q_heads + head) * dim;
    const Doubles q(q_.begin() + at, q_.begin() + at + dim);
    const Doubles expected = OracleAttention(q, keys, values, args_.scale);
    for (int i = 0; i < dim; ++i) {
      ASSERT_NEAR(out_[at + i], expected[i], Tolerances::kAttention)
          << "query " << query << " head " << head << " element " << i;
    }
  }

  std::vector<float> q_;
  GuardedBuffer<float> out_;
  std::vector<std::unique_ptr<Matrix>> k_;  // blocks, then local
  std::vector<std::unique_ptr<Matrix>> v_;
  std::vector<KvView> views_;
  std::vector<Buffer> moved_;
  AttentionArgs args_;
};

constexpr BlockSpec kNone = {0, DType::kFloat32};

class AttentionContractTest : public BackendTest {
 protected:
  void Attend(Sequence& sequence) { backend_->Attend(absl::MakeConstSpan(&sequence.args(), 1)); }
};

TEST_P(AttentionContractTest, ByHand) {
  // Scores ln 1 and ln 3 (scale 1): weights 1/4 and 3/4 of the values 4 and 8.
  const std::vector<float> q = {1.0f};
  const std::vector<float> k = {0.0f, std::log(3.0f)};
  const std::vector<float> v = {4.0f, 8.0f};
  GuardedBuffer<float> out(1);
  AttentionArgs args;
  args.q = q.data();
  args.out = out.data();
  args.num_queries = args.num_q_heads = args.num_kv_heads = args.head_dim = 1;
  args.local = {.k = k.data(), .v = v.data(), .num_tokens = 2};
  args.first_visible = 1;
  backend_->Attend(absl::MakeConstSpan(&args, 1));
  EXPECT_NEAR(out[0], 7.0f, 1e-6);
  args.first_visible = 0;  // sees the first row only
  backend_->Attend(absl::MakeConstSpan(&args, 1));
  EXPECT_NEAR(out[0], 4.0f, 1e-6);
  args.causal = false;
  backend_->Attend(absl::MakeConstSpan(&args, 1));
  EXPECT_NEAR(out[0], 7.0f, 1e-6);
}

TEST_P(AttentionContractTest, NothingVisibleGivesZeros) {
  Sequence empty(3, 4, 2, 16, {kNone, kNone}, kNone, 1);
  Attend(empty);
  for (int i = 0; i < 3 * 4 * 16; ++i) EXPECT_EQ(empty.out()[i], 0.0f);
  Sequence before(2, 2, 1, 16, {}, {5, DType::kFloat32}, 2);
  before.args().first_visible = -1;  // query 0 sees nothing, query 1 the first row
  Attend(before);
  for (int i = 0; i < 2 * 16; ++i) EXPECT_EQ(before.out()[i], 0.0f);
  before.ExpectMatchesOracle();
}

TEST_P(AttentionContractTest, PrefillOfOddShapes) {
  uint32_t seed = 10;
  for (const int head_dim : {5, 16, 20, 32, 64, 128}) {
    for (const int num_queries : {1, 2, 5, 17, 70}) {
      SCOPED_TRACE(::testing::Message() << head_dim << " " << num_queries);
      Sequence sequence(num_queries, 6, 2, head_dim,
                        {{3, DType::kFloat32}, {129, DType::kFloat32}, kNone},
                        {num_queries + 7, DType::kFloat32}, seed++);
      Attend(sequence);
      sequence.ExpectMatchesOracle();
    }
  }
}

TEST_P(AttentionContractTest, BlocksOfMixedPrecision) {
  for (const int num_queries : {1, 40}) {
    for (const int head_dim : {20, 64}) {
      Sequence sequence(num_queries, 9, 3, head_dim,
                        {{3, DType::kFloat32},
                         {150, DType::kBFloat16},
                         {140, DType::kInt8},
                         {1, DType::kInt8},
                         {135, DType::kFloat8},
                         {3, DType::kFloat8},
                         {2, DType::kBFloat16}},
                        {num_queries, DType::kFloat32}, 77 + head_dim);
      Attend(sequence);
      sequence.ExpectMatchesOracle();
    }
  }
}

TEST_P(AttentionContractTest, BlocksInOwnMemoryWhoseScalesMeanNothing) {
  for (const int num_queries : {1, 40}) {
    Sequence sequence(
        num_queries, 6, 2, 64,
        {{30, DType::kFloat32}, {50, DType::kBFloat16}, {20, DType::kInt8}, {40, DType::kFloat8}},
        {num_queries, DType::kFloat32}, 91);
    sequence.MoveBlocks(*backend_, 2, 64);
    Attend(sequence);
    sequence.ExpectMatchesOracle();
  }
}

TEST_P(AttentionContractTest, FullMaskSeesLaterRows) {
  Sequence sequence(20, 4, 4, 32, {{5, DType::kFloat32}}, {33, DType::kFloat32}, 5);
  sequence.args().causal = false;
  Attend(sequence);
  sequence.ExpectMatchesOracle();
  // A prompt of which nothing was fed before, shorter and longer than a tile.
  for (const int num_tokens : {7, 300}) {
    Sequence whole(num_tokens, 6, 2, 64, {}, {num_tokens, DType::kFloat32}, 6);
    whole.args().causal = false;
    Attend(whole);
    whole.ExpectMatchesOracle();
  }
}

TEST_P(AttentionContractTest, LongContextsAcrossManyTiles) {
  Sequence prefill(33, 2, 1, 16, {{700, DType::kFloat32}}, {933, DType::kFloat32}, 6);
  Attend(prefill);
  prefill.ExpectMatchesOracle();
  Sequence decode(1, 4, 1, 16, {{2000, DType::kInt8}}, {3001, DType::kBFloat16}, 7);
  Attend(decode);
  decode.ExpectMatchesOracle();
  Sequence float8(1, 4, 1, 16, {{2000, DType::kFloat8}}, {301, DType::kBFloat16}, 8);
  Attend(float8);
  float8.ExpectMatchesOracle();
}

TEST_P(AttentionContractTest, SequencesOfABatchAreIndependent) {
  Sequence a(1, 6, 2, 32, {{40, DType::kFloat32}}, {3, DType::kFloat32}, 21);
  Sequence b(1, 6, 2, 32, {}, {600, DType::kFloat32}, 22);
  Sequence c(9, 6, 2, 32, {{7, DType::kInt8}}, {9, DType::kFloat32}, 23);
  const std::vector<AttentionArgs> batch = {a.args(), b.args(), c.args()};
  backend_->Attend(batch);
  for (Sequence* sequence : {&a, &b, &c}) sequence->ExpectMatchesOracle();
  const std::vector<float> in_batch(c.out(), c.out() + 9 * 6 * 32);
  Attend(c);
  EXPECT_EQ(in_batch, std::vector<float>(c.out(), c.out() + 9 * 6 * 32));
  backend_->Attend({});
}

TEST_P(AttentionContractTest, LargeScoresNeitherOverflowNorVanish) {
  // Scores of some ± 1e4: the softmax is one-hot, and exp of the raw score would overflow.
  Sequence sequence(2, 2, 2, 16, {{200, DType::kFloat32}}, {2, DType::kFloat32}, 9);
  sequence.args().scale = 1e4f;
  Attend(sequence);
  for (int i = 0; i < 2 * 2 * 16; ++i) {
    EXPECT_TRUE(std::isfinite(sequence.out()[i]));
    EXPECT_NE(sequence.out()[i], 0.0f);
  }
}

TEST_P(AttentionContractTest, NanShowsInTheQueriesThatSeeIt) {
  Sequence sequence(3, 2, 1, 16, {{10, DType::kFloat32}}, {3, DType::kFloat32}, 9);
  sequence.k(1).f32[1 * 16] = std::numeric_limits<float>::quiet_NaN();  // local row 1
  Attend(sequence);
  for (int i = 0; i < 2 * 16; ++i) {
    EXPECT_FALSE(std::isnan(sequence.out()[i]));          // query 0 sees row 0
    EXPECT_TRUE(std::isnan(sequence.out()[2 * 16 + i]));  // query 1 sees row 1
  }
}

TEST_P(AttentionContractTest, DoesNotDependOnTheNumberOfThreads) {
  Sequence sequence(50, 9, 3, 64, {{300, DType::kBFloat16}}, {50, DType::kFloat32}, 3);
  const size_t n = 50 * 9 * 64;
  Make(1)->Attend(absl::MakeConstSpan(&sequence.args(), 1));
  const std::vector<float> one(sequence.out(), sequence.out() + n);
  Make(4)->Attend(absl::MakeConstSpan(&sequence.args(), 1));
  EXPECT_EQ(one, std::vector<float>(sequence.out(), sequence.out() + n));
}

MSA_ON_EVERY_BACKEND(AttentionContractTest);

}  // namespace
}  // namespace msa::kernels

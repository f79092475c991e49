// The contract of PackLinear and Linear: every weight format and row count against the oracle on
// the rounded weights, and the rounding itself against the format's definition.
#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/weight_format.h"
#include "tests/kernels/backend_fixture.h"
#include "tests/kernels/oracle.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/tolerances.h"

namespace msa::kernels {
namespace {

using ::msa::testing::BackendTest;
using ::msa::testing::Doubles;
using ::msa::testing::GuardedBuffer;
using ::msa::testing::RandomFloats;
using ::msa::testing::Tolerances;

constexpr WeightFormat kFormats[] = {WeightFormat::kFloat32, WeightFormat::kBFloat16,
                                     WeightFormat::kInt8};

// The weights that the format stands for.
Doubles Rounded(const std::vector<float>& w, int64_t in, WeightFormat format) {
  Doubles rounded(w.begin(), w.end());
  for (size_t i = 0; i < w.size(); ++i) {
    if (format == WeightFormat::kBFloat16) rounded[i] = ToFloat(ToBFloat16(w[i]));
    if (format != WeightFormat::kInt8) continue;
    const size_t begin = i - i % in % kInt8WeightGroup;
    const size_t end = std::min<size_t>(begin + kInt8WeightGroup, i - i % in + in);
    float largest = 0;
    for (size_t j = begin; j < end; ++j) largest = std::max(largest, std::fabs(w[j]));
    const float scale = largest / 127.0f;
    rounded[i] = scale == 0 ? 0.0 : std::nearbyint(w[i] / scale) * double{scale};
  }
  return rounded;
}

class LinearContractTest : public BackendTest {
 protected:
  void Check(int64_t rows, int64_t in, int64_t out, WeightFormat format, bool with_bias) {
    SCOPED_TRACE(::testing::Message()
                 << rows << "x" << in << "x" << out << " format " << static_cast<int>(format));
    const std::vector<float> w = RandomFloats(out * in, in, 1.0 / std::sqrt(in));
    const std::vector<float> x = RandomFloats(rows * in, rows + 1);
    const std::vector<float> bias = RandomFloats(out, 3);
    const auto packed = backend_->PackLinear(w.data(), out, in, format);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ((*packed)->in_features(), in);
    EXPECT_EQ((*packed)->out_features(), out);
    GuardedBuffer<float> y(rows * out);
    backend_->Linear(**packed, x.data(), rows, with_bias ? bias.data() : nullptr, y.data());
    const Doubles rounded = Rounded(w, in, format);
    for (int64_t i = 0; i < rows * out; ++i) {
      double expected = with_bias ? bias[i % out] : 0.0;
      for (int64_t j = 0; j < in; ++j) {
        expected += double{x[i / out * in + j]} * rounded[i % out * in + j];
      }
      const bool rounds = backend_->rounds_activations(format);
      ASSERT_NEAR(y[i], expected, rounds ? Tolerances::kHalfDot : Tolerances::kDot) << i;
    }
  }
};

TEST_P(LinearContractTest, ByHand) {
  const std::vector<float> w = {1, 2, 3, 4, 5, 6};  // [3, 2]
  const std::vector<float> x = {1, 10, -1, 0};
  const std::vector<float> bias = {100, 200, 300};
  for (const WeightFormat format : {WeightFormat::kFloat32, WeightFormat::kBFloat16}) {
    const auto packed = backend_->PackLinear(w.data(), 3, 2, format);
    ASSERT_TRUE(packed.ok());
    GuardedBuffer<float> y(6);
    backend_->Linear(**packed, x.data(), 2, bias.data(), y.data());
    EXPECT_EQ(std::vector<float>(y.data(), y.data() + 6),
              (std::vector<float>{121, 243, 365, 99, 197, 295}));
  }
}

TEST_P(LinearContractTest, EveryFormatAndRowCount) {
  for (const WeightFormat format : kFormats) {
    for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 16, 70}) {
      Check(rows, 96, 130, format, rows % 2 == 0);
    }
  }
}

TEST_P(LinearContractTest, OddWidths) {
  for (const WeightFormat format : kFormats) {
    for (const int64_t in : {1, 7, 31, 33, 100}) {
      for (const int64_t out : {1, 3, 5, 67}) {
        Check(1, in, out, format, true);
        Check(6, in, out, format, false);
        Check(13, in, out, format, true);
      }
    }
  }
}

TEST_P(LinearContractTest, GroupsOfZerosStayZero) {
  std::vector<float> w(2 * 64, 0.0f);
  w[64] = 1.0f;
  const std::vector<float> x(64, 3.0f);
  const auto packed = backend_->PackLinear(w.data(), 2, 64, WeightFormat::kInt8);
  ASSERT_TRUE(packed.ok());
  GuardedBuffer<float> y(2);
  backend_->Linear(**packed, x.data(), 1, nullptr, y.data());
  EXPECT_EQ(y[0], 0.0f);
  EXPECT_NEAR(y[1], 3.0f, 1e-6);
}

// What FusedLinear stands for, by its parts on the processor, in double precision but for the
// products.
class FusedLinearTest : public LinearContractTest {
 protected:
  static constexpr int64_t kIn = 64;
  static constexpr int64_t kOut = 96;
  static constexpr float kEps = 1e-5f;

  Doubles Expected(int64_t rows, bool norm, LinearThen then, WeightFormat format) const {
    const Doubles w = Rounded(w_, kIn, format);
    Doubles product(rows * kOut);
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (int64_t i = 0; i < kIn; ++i) squares += double{x_[r * kIn + i]} * x_[r * kIn + i];
      const double factor = norm ? 1 / std::sqrt(squares / kIn + kEps) : 1.0;
      for (int64_t o = 0; o < kOut; ++o) {
        double& sum = product[r * kOut + o];
        for (int64_t i = 0; i < kIn; ++i) {
          sum += x_[r * kIn + i] * factor * (norm ? norm_[i] : 1.0f) * w[o * kIn + i];
        }
        sum += bias_[o] + (then == LinearThen::kAdd ? y_[r * kOut + o] : 0.0);
      }
    }
    if (then != LinearThen::kSiluMul) return product;
    Doubles gated(rows * kOut / 2);
    for (int64_t i = 0; i < rows * kOut / 2; ++i) {
      const int64_t at = i / (kOut / 2) * kOut + i % (kOut / 2);
      gated[i] = product[at] / (1 + std::exp(-product[at])) * product[at + kOut / 2];
    }
    return gated;
  }

  static constexpr int64_t kMostRows = 20;
  const std::vector<float> w_ = RandomFloats(kOut * kIn, 1, 1.0 / 8);
  const std::vector<float> x_ = RandomFloats(kMostRows * kIn, 2);
  const std::vector<float> norm_ = RandomFloats(kIn, 3);
  const std::vector<float> bias_ = RandomFloats(kOut, 4);
  const std::vector<float> y_ = RandomFloats(kMostRows * kOut, 5);
};

TEST_P(FusedLinearTest, NormsAddsAndGates) {
  for (const WeightFormat format : kFormats) {
    const auto packed = backend_->PackLinear(w_.data(), kOut, kIn, format);
    ASSERT_TRUE(packed.ok());
    EXPECT_EQ((*packed)->rounds_activations(), backend_->rounds_activations(format));
    for (const LinearThen then : {LinearThen::kStore, LinearThen::kAdd, LinearThen::kSiluMul}) {
      for (const int64_t rows : {int64_t{1}, int64_t{3}, int64_t{8}, int64_t{9}, kMostRows}) {
        for (const bool norm : {false, true}) {
          SCOPED_TRACE(::testing::Message()
                       << "rows " << rows << " norm " << norm << " then " << static_cast<int>(then)
                       << " format " << static_cast<int>(format));
          const int64_t width = then == LinearThen::kSiluMul ? kOut / 2 : kOut;
          GuardedBuffer<float> y(rows * width), normed(rows * kIn), product(rows * kOut);
          std::copy_n(y_.data(), rows * width, y.data());
          LinearArgs args;
          args.x = x_.data();
          args.rows = rows;
          args.norm = norm ? norm_.data() : nullptr;
          args.eps = kEps;
          args.bias = bias_.data();
          args.then = then;
          args.y = y.data();
          args.normed = normed.data();
          args.keep_normed = norm && rows % 2 == 1;
          args.product = product.data();
          backend_->FusedLinear(**packed, args);
          const Doubles expected = Expected(rows, norm, then, format);
          const bool rounds = (*packed)->rounds_activations();
          for (int64_t i = 0; i < rows * width; ++i) {
            const double tolerance = rounds ? Tolerances::kHalfDot : 1e-5;
            ASSERT_NEAR(y.data()[i], expected[i], tolerance * (1 + std::abs(expected[i]))) << i;
          }
          if (!args.keep_normed) continue;
          std::vector<float> normal(rows * kIn);
          backend_->RmsNorm(x_.data(), norm_.data(), rows, kIn, kEps, normal.data());
          for (int64_t i = 0; i < rows * kIn; ++i) ASSERT_EQ(normed.data()[i], normal[i]) << i;
        }
      }
    }
  }
}

// A gated result in bfloat16, and a product that takes it so, where the backend rounds anyway.
TEST_P(FusedLinearTest, PassesRoundedActivationsOn) {
  const auto packed = backend_->PackLinear(w_.data(), kOut, kIn, WeightFormat::kBFloat16);
  ASSERT_TRUE(packed.ok());
  if (!(*packed)->rounds_activations()) return;  // they stay float32 there
  for (const int64_t rows : {int64_t{2}, kMostRows}) {
    std::vector<float> wide(rows * kOut / 2), product(rows * kOut), from_wide(rows * kOut),
        from_half(rows * kOut);
    std::vector<BFloat16> half(rows * kOut / 2);
    LinearArgs args;
    args.x = x_.data();
    args.rows = rows;
    args.then = LinearThen::kSiluMul;
    args.product = product.data();
    args.y = wide.data();
    backend_->FusedLinear(**packed, args);
    args.y = half.data();
    args.y_dtype = DType::kBFloat16;
    backend_->FusedLinear(**packed, args);
    for (size_t i = 0; i < half.size(); ++i) {
      ASSERT_EQ(half[i].bits, ToBFloat16(wide[i]).bits) << i;
    }
    // 32 columns of what was gated are enough for a product.
    const int64_t in = 32;
    const auto second = backend_->PackLinear(w_.data(), kOut, in, WeightFormat::kBFloat16);
    ASSERT_TRUE(second.ok());
    LinearArgs next;
    next.rows = rows;
    next.x = wide.data();
    next.y = from_wide.data();
    backend_->FusedLinear(**second, next);
    next.x = half.data();
    next.x_dtype = DType::kBFloat16;
    next.y = from_half.data();
    backend_->FusedLinear(**second, next);
    EXPECT_EQ(from_wide, from_half);
  }
}

TEST_P(LinearContractTest, NoRowsWritesNothing) {
  const std::vector<float> w(4, 1.0f);
  const auto packed = backend_->PackLinear(w.data(), 2, 2, WeightFormat::kFloat32);
  ASSERT_TRUE(packed.ok());
  GuardedBuffer<float> y(0);
  backend_->Linear(**packed, w.data(), 0, nullptr, y.data());
}

MSA_ON_EVERY_BACKEND(LinearContractTest);
MSA_ON_EVERY_BACKEND(FusedLinearTest);

// What a document is encoded to, or a prompt read as, must not depend on what shares its batch.
// CMakeLists.txt runs it with smaller instruction sets too, which take rows by other numbers.
TEST(CpuLinearTest, BitsOfARowDoNotDependOnItsCompany) {
  constexpr int64_t kMany = 401, kOut = 230;
  const auto backend = *MakeBackend("cpu", 2);
  for (const auto& [in, step] : {std::pair<int64_t, int64_t>{160, 1}, {1536, 13}}) {
    const std::vector<float> w = RandomFloats(kOut * in, 1);
    const std::vector<float> x = RandomFloats(kMany * in, 2);
    for (const WeightFormat format : kFormats) {
      const auto packed = *backend->PackLinear(w.data(), kOut, in, format);
      std::vector<float> all(kMany * kOut);
      backend->Linear(*packed, x.data(), kMany, nullptr, all.data());
      for (int64_t rows = 17; rows < kMany; rows += step) {
        const int64_t first = kMany - rows;
        std::vector<float> some(rows * kOut);
        backend->Linear(*packed, x.data() + first * in, rows, nullptr, some.data());
        EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + first * kOut)) << rows;
      }
    }
  }
}

}  // namespace
}  // namespace msa::kernels

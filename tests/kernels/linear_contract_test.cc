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

TEST_P(LinearContractTest, NoRowsWritesNothing) {
  const std::vector<float> w(4, 1.0f);
  const auto packed = backend_->PackLinear(w.data(), 2, 2, WeightFormat::kFloat32);
  ASSERT_TRUE(packed.ok());
  GuardedBuffer<float> y(0);
  backend_->Linear(**packed, w.data(), 0, nullptr, y.data());
}

MSA_ON_EVERY_BACKEND(LinearContractTest);

// What a document is encoded to, or a prompt read as, must not depend on what shares its batch.
TEST(CpuLinearTest, BitsOfARowDoNotDependOnItsCompany) {
  constexpr int64_t kMany = 401, kIn = 160, kOut = 230;
  const auto backend = *MakeBackend("cpu", 2);
  const std::vector<float> w = RandomFloats(kOut * kIn, 1);
  const std::vector<float> x = RandomFloats(kMany * kIn, 2);
  for (const WeightFormat format : kFormats) {
    const auto packed = *backend->PackLinear(w.data(), kOut, kIn, format);
    std::vector<float> all(kMany * kOut);
    backend->Linear(*packed, x.data(), kMany, nullptr, all.data());
    for (const int64_t rows : {17, 18, 20, 64, 127, 256, 385}) {
      const int64_t first = kMany - rows;
      std::vector<float> some(rows * kOut);
      backend->Linear(*packed, x.data() + first * kIn, rows, nullptr, some.data());
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + first * kOut)) << rows;
    }
  }
}

}  // namespace
}  // namespace msa::kernels

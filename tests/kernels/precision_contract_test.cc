// The contract of precisions: rounding to each and back, and pooling into each.
#include <algorithm>
#include <cmath>
#include <limits>
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
using ::msa::testing::Float8Value;
using ::msa::testing::GuardedBuffer;
using ::msa::testing::NearestFloat8;
using ::msa::testing::RandomFloats;
using ::msa::testing::Tolerances;
using ::testing::ElementsAre;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class PrecisionContractTest : public BackendTest {};

TEST_P(PrecisionContractTest, PoolsPackedRowsIntoEveryPrecision) {
  const std::vector<int32_t> begin = {0, 5, 6, 20};
  const int heads = 3, dim = 16, width = heads * dim, chunks = 3;
  const std::vector<float> x = RandomFloats(20 * width, 3);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
    for (const bool a_head : {false, true}) {
      const int64_t rows = a_head ? chunks * heads : chunks;
      GuardedBuffer<uint8_t> out(chunks * width * DTypeBytes(dtype));
      GuardedBuffer<float> scales(rows);
      backend_->PoolPacked({.x = x.data(),
                            .chunk_begin = begin,
                            .num_heads = heads,
                            .head_dim = dim,
                            .dtype = dtype,
                            .out = out.data(),
                            .scales = scales.data(),
                            .scale_per_head = a_head});
      std::vector<float> back(chunks * width);
      backend_->Dequantize(out.data(), scales.data(), rows, chunks * width / rows, dtype,
                           back.data());
      for (int i = 0; i < chunks * width; ++i) {
        double mean = 0;
        const int c = i / width;
        for (int t = begin[c]; t < begin[c + 1]; ++t) mean += x[t * width + i % width];
        mean /= begin[c + 1] - begin[c];
        // Half a step, of int8 or of a number of 8 or 4 bits of mantissa.
        const double step = dtype == DType::kInt8 ? scales[i / (chunks * width / rows)]
                            : dtype == DType::kFloat8
                                ? std::fabs(mean) / 8 + scales[i / (chunks * width / rows)] / 512
                            : dtype == DType::kBFloat16 ? std::fabs(mean) / 128
                                                        : 0.0;
        EXPECT_NEAR(back[i], mean, 0.501 * step + Tolerances::kElementwise);
      }
    }
  }
}

TEST_P(PrecisionContractTest, QuantizesInt8ByHand) {
  // Largest 254, scale 2; ties round to even: 1 / 2 = 0.5 to 0, 3 / 2 = 1.5 to 2.
  const std::vector<float> x = {254, 1, 3, -254, -3, 5, 0, 0, 0, 0, 0, 0};
  GuardedBuffer<int8_t> steps(12);
  GuardedBuffer<float> scales(2);
  backend_->Quantize(x.data(), 2, 6, DType::kInt8, steps.data(), scales.data());
  EXPECT_THAT(steps.span(), ElementsAre(127, 0, 2, -127, -2, 2, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(scales.span(), ElementsAre(2.0f, 0.0f));
  GuardedBuffer<float> back(12);
  backend_->Dequantize(steps.data(), scales.data(), 2, 6, DType::kInt8, back.data());
  EXPECT_THAT(back.span(), ElementsAre(254, 0, 4, -254, -4, 4, 0, 0, 0, 0, 0, 0));
}

TEST_P(PrecisionContractTest, QuantizeAndBackStaysWithinHalfAStep) {
  for (const int64_t width : {1, 5, 64, 131}) {
    const std::vector<float> x = RandomFloats(3 * width, width);
    GuardedBuffer<int8_t> steps(3 * width);
    GuardedBuffer<float> scales(3);
    GuardedBuffer<float> back(3 * width);
    backend_->Quantize(x.data(), 3, width, DType::kInt8, steps.data(), scales.data());
    backend_->Dequantize(steps.data(), scales.data(), 3, width, DType::kInt8, back.data());
    for (int64_t i = 0; i < 3 * width; ++i) {
      EXPECT_NEAR(back[i], x[i], scales[i / width] * 0.50001);
      EXPECT_LE(std::fabs(x[i]), scales[i / width] * 127.001);
    }
  }
}

TEST_P(PrecisionContractTest, QuantizesBFloat16ToNearestEven) {
  // 1 + 2^-8 lies half way between 1 and 1 + 2^-7: even is 1. 1 + 3·2^-8 goes up.
  const std::vector<float> x = {1.00390625f, 1.01171875f, -2.5f, 3e38f};
  GuardedBuffer<BFloat16> bits(4);
  backend_->Quantize(x.data(), 1, 4, DType::kBFloat16, bits.data(), nullptr);
  GuardedBuffer<float> back(4);
  backend_->Dequantize(bits.data(), nullptr, 1, 4, DType::kBFloat16, back.data());
  EXPECT_EQ(back[0], 1.0f);
  EXPECT_EQ(back[1], 1.015625f);
  EXPECT_EQ(back[2], -2.5f);
  EXPECT_NEAR(back[3], 3e38f, 3e38 / 256);
}

TEST_P(PrecisionContractTest, QuantizesFloat8ToNearestEven) {
  // A row of largest 448 has scale 1. In it: every number of the format, every middle between two,
  // and the float32 on either side of each.
  std::vector<float> x = {448};
  for (int code = 0; code < 0x7F; ++code) {
    const double middle = (Float8Value(code) + Float8Value(std::min(code + 1, 0x7E))) / 2;
    for (const double value : {Float8Value(code), middle}) {
      const auto exact = static_cast<float>(value);
      for (const float near : {exact, std::nextafter(exact, 0.0f), std::nextafter(exact, 448.0f)}) {
        x.insert(x.end(), {near, -near});
      }
    }
  }
  const auto width = static_cast<int64_t>(x.size());
  GuardedBuffer<uint8_t> codes(width);
  GuardedBuffer<float> scale(1);
  backend_->Quantize(x.data(), 1, width, DType::kFloat8, codes.data(), scale.data());
  EXPECT_EQ(scale[0], 1.0f);
  for (int64_t i = 0; i < width; ++i) EXPECT_EQ(codes[i], NearestFloat8(x[i])) << x[i];
}

TEST_P(PrecisionContractTest, QuantizesFloat8ByARowsScale) {
  for (const int64_t width : {1, 5, 64, 131}) {
    std::vector<float> x = RandomFloats(3 * width, 40 + width);
    std::fill_n(x.begin() + width, width, 0.0f);
    x[2 * width] = 1e4f;  // the others of its row fall among the smallest steps
    GuardedBuffer<uint8_t> codes(3 * width);
    GuardedBuffer<float> scales(3);
    GuardedBuffer<float> back(3 * width);
    backend_->Quantize(x.data(), 3, width, DType::kFloat8, codes.data(), scales.data());
    backend_->Dequantize(codes.data(), scales.data(), 3, width, DType::kFloat8, back.data());
    EXPECT_EQ(scales[1], 0.0f);
    for (int64_t i = 0; i < 3 * width; ++i) {
      const float scale = scales[i / width];
      EXPECT_LE(std::fabs(x[i]), scale * 448.001f);
      EXPECT_EQ(codes[i], scale == 0 ? 0 : NearestFloat8(x[i] / scale)) << x[i];
      EXPECT_EQ(back[i], static_cast<float>(Float8Value(codes[i]) * scale));
    }
  }
}

TEST_P(PrecisionContractTest, Float8SaturatesWhereTheScaleVanishes) {
  const std::vector<float> x = {1e-44f, 0.0f, -1e-44f};
  GuardedBuffer<uint8_t> codes(3);
  GuardedBuffer<float> scale(1);
  backend_->Quantize(x.data(), 1, 3, DType::kFloat8, codes.data(), scale.data());
  EXPECT_THAT(codes.span(), ElementsAre(0x7E, 0, 0xFE));
  EXPECT_EQ(scale[0], 0.0f);
}

TEST_P(PrecisionContractTest, ReadsEveryFloat8) {
  std::vector<uint8_t> codes;
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7F) != 0x7F) codes.push_back(static_cast<uint8_t>(code));
  }
  const float scale = 0.25f;
  GuardedBuffer<float> back(254);
  backend_->Dequantize(codes.data(), &scale, 1, 254, DType::kFloat8, back.data());
  for (int i = 0; i < 254; ++i) EXPECT_EQ(back[i], Float8Value(codes[i]) / 4) << int{codes[i]};
}

TEST_P(PrecisionContractTest, ARowWithNanReadsBackAsNan) {
  std::vector<float> x(20, 1.0f);
  x[3] = kNan;   // in a whole vector of up to 8 lanes
  x[19] = kNan;  // in a tail
  for (const DType dtype : {DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
    std::vector<uint8_t> stored(40);
    std::vector<float> scales(2);
    std::vector<float> back(20);
    backend_->Quantize(x.data(), 2, 10, dtype, stored.data(), scales.data());
    backend_->Dequantize(stored.data(), scales.data(), 2, 10, dtype, back.data());
    EXPECT_TRUE(std::isnan(back[3]));
    EXPECT_TRUE(std::isnan(back[19]));
  }
}

MSA_ON_EVERY_BACKEND(PrecisionContractTest);

}  // namespace
}  // namespace msa::kernels

// Precisions: names, numbers on disk, and e4m3 against its definition.
#include "common/dtype.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace msa {
namespace {

constexpr DType kAll[] = {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat16,
                          DType::kFloat8};

// sign · 2^(exponent - 7) · (1 + mantissa / 8), or mantissa · 2^-9 for exponent 0.
double Definition(int code) {
  const int exponent = (code >> 3) & 0xF;
  const double size = exponent > 0 ? std::pow(2.0, exponent - 7) * (1 + (code & 7) / 8.0)
                                   : (code & 7) * std::pow(2.0, -9);
  return code & 0x80 ? -size : size;
}

TEST(DType, NamesParseToThemselves) {
  for (const DType dtype : kAll) EXPECT_EQ(*ParseDType(DTypeName(dtype)), dtype);
  EXPECT_TRUE(absl::IsInvalidArgument(ParseDType("fp4").status()));
}

TEST(DType, NumbersAndSizesAreThoseOnDisk) {
  for (int i = 0; i < 5; ++i) EXPECT_EQ(static_cast<int>(kAll[i]), i + 1);
  EXPECT_EQ(DTypeBytes(DType::kFloat8), 1u);
  EXPECT_TRUE(HasScales(DType::kFloat8) && HasScales(DType::kInt8));
  EXPECT_FALSE(HasScales(DType::kFloat32) || HasScales(DType::kBFloat16));
}

TEST(Float8, EveryCodeIsItsNumberAndBack) {
  for (int code = 0; code < 256; ++code) {
    const Float8 stored = {static_cast<uint8_t>(code)};
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(ToFloat(stored)));
    } else {
      EXPECT_EQ(ToFloat(stored), Definition(code));
    }
    EXPECT_EQ(ToFloat8(ToFloat(stored)).bits, code);
  }
}

TEST(Float8, MiddlesRoundToEven) {
  for (int code = 0; code < 0x7E; ++code) {
    const auto middle = static_cast<float>((Definition(code) + Definition(code + 1)) / 2);
    EXPECT_EQ(ToFloat8(middle).bits, code + code % 2);
    EXPECT_EQ(ToFloat8(std::nextafter(middle, 0.0f)).bits, code);
    EXPECT_EQ(ToFloat8(std::nextafter(middle, 448.0f)).bits, code + 1);
    EXPECT_EQ(ToFloat8(-middle).bits, 0x80 | (code + code % 2));
  }
}

TEST(Float8, SaturatesAndKeepsNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float large : {449.0f, 464.0f, 480.0f, 3e38f, kInfinity}) {
    EXPECT_EQ(ToFloat8(large).bits, 0x7E);
    EXPECT_EQ(ToFloat8(-large).bits, 0xFE);
  }
  EXPECT_EQ(ToFloat8(std::numeric_limits<float>::quiet_NaN()).bits, 0x7F);
  EXPECT_EQ(ToFloat8(1e-40f).bits, 0);
}

}  // namespace
}  // namespace msa

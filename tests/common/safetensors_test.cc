#include "common/safetensors.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace msa {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Bytes of a file with this header text and data, in the documented format.
std::string FileBytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

template <typename T>
std::string Raw(std::initializer_list<T> values) {
  return std::string(reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(T));
}

class SafetensorsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenBytes(const std::string& bytes) {
    path_ = ::testing::TempDir() + "/" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name() + ".safetensors";
    std::ofstream(path_, std::ios::binary) << bytes;
    return SafetensorsFile::Open(path_);
  }
  void ExpectRefused(const std::string& bytes, const std::string& why) {
    const auto file = OpenBytes(bytes);
    ASSERT_FALSE(file.ok()) << "accepted; expected: " << why;
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(why));
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(path_));
  }
  void TearDown() override { std::remove(path_.c_str()); }

  std::string path_;
};

constexpr char kTwo[] =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
    R"("b":{"dtype":"I64","shape":[],"data_offsets":[8,16]}})";

TEST_F(SafetensorsTest, ReadsTensorsScalarsAndMetadata) {
  const auto file = OpenBytes(FileBytes(kTwo, Raw<float>({1.5f, -2.0f}) + Raw<int64_t>({-7})));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 2u);
  EXPECT_EQ((*file)->metadata().at("format"), "pt");
  EXPECT_THAT(*(*file)->ReadFloat32("a", {2, 1}), ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(*ToInt64(*(*file)->Find("b")), ElementsAre(-7));
  EXPECT_TRUE((*file)->Find("b")->shape.empty());
}

TEST_F(SafetensorsTest, NanAndInfinityPassUntouched) {
  const uint32_t nan_payload = 0x7FC12345;
  const auto file = OpenBytes(FileBytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                                        Raw<uint32_t>({nan_payload, 0xFF800000})));
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<float> values = *(*file)->ReadFloat32("a", {2});
  uint32_t bits;
  std::memcpy(&bits, &values[0], 4);
  EXPECT_EQ(bits, nan_payload);
  EXPECT_EQ(values[1], -std::numeric_limits<float>::infinity());
}

TEST_F(SafetensorsTest, WidensHalfPrecisionExactly) {
  const auto file = OpenBytes(
      FileBytes(R"({"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
                R"("h":{"dtype":"F16","shape":[6],"data_offsets":[4,16]}})",
                Raw<uint16_t>({0x3FC0, 0xC000, 0x3C00, 0x0001, 0x8000, 0xFC00, 0x7E00, 0x7BFF})));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(*(*file)->ReadFloat32("b", {2}), ElementsAre(1.5f, -2.0f));
  const std::vector<float> half = *(*file)->ReadFloat32("h", {6});
  EXPECT_EQ(half[0], 1.0f);
  EXPECT_EQ(half[1], std::ldexp(1.0f, -24));
  EXPECT_TRUE(half[2] == 0.0f && std::signbit(half[2]));
  EXPECT_EQ(half[3], -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(half[4]));
  EXPECT_EQ(half[5], 65504.0f);
}

TEST_F(SafetensorsTest, MissingFileAndTensorAreNamed) {
  path_ = ::testing::TempDir() + "/none.safetensors";
  EXPECT_EQ(SafetensorsFile::Open(path_).status().code(), absl::StatusCode::kNotFound);
  const auto file = OpenBytes(FileBytes(kTwo, std::string(16, '\0')));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ((*file)->Find("zzz").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string((*file)->Find("zzz").status().message()), HasSubstr("'zzz'"));
}

TEST_F(SafetensorsTest, WrongShapeAndTypeAreNamed) {
  const auto file = OpenBytes(FileBytes(kTwo, std::string(16, '\0')));
  ASSERT_TRUE(file.ok());
  const absl::Status shape = (*file)->ReadFloat32("a", {1, 2}).status();
  EXPECT_THAT(std::string(shape.message()), HasSubstr("[2, 1]"));
  EXPECT_THAT(std::string(shape.message()), HasSubstr("[1, 2]"));
  EXPECT_EQ((*file)->ReadFloat32("b", {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string whole = FileBytes(kTwo, std::string(16, '\x01'));
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    const auto file = OpenBytes(whole.substr(0, bytes));
    ASSERT_FALSE(file.ok()) << bytes;
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
}

TEST_F(SafetensorsTest, HeaderLengthThatLiesIsRefused) {
  std::string bytes = FileBytes(kTwo, std::string(16, '\0'));
  for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{60}, uint64_t{1} << 40,
                                std::numeric_limits<uint64_t>::max()}) {
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_FALSE(OpenBytes(bytes).ok()) << length;
  }
  ExpectRefused(bytes, "header claims");
}

TEST_F(SafetensorsTest, OffsetsOutOfRangeAreRefused) {
  ExpectRefused(
      FileBytes(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", std::string(8, '\0')),
      "lie outside");
  ExpectRefused(
      FileBytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", std::string(8, '\0')),
      "lie outside");
  ExpectRefused(
      FileBytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", std::string(8, '\0')),
      "lacks");
}

TEST_F(SafetensorsTest, ShapeThatDisagreesOrOverflowsIsRefused) {
  ExpectRefused(
      FileBytes(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", std::string(8, '\0')),
      "takes 12 bytes but it has 8");
  ExpectRefused(
      FileBytes(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})",
                ""),
      "fit in memory");
}

TEST_F(SafetensorsTest, UnknownTypeIsRefused) {
  ExpectRefused(
      FileBytes(R"({"a":{"dtype":"Q4","shape":[8],"data_offsets":[0,8]}})", std::string(8, '\0')),
      "'Q4'");
}

TEST_F(SafetensorsTest, OverlapHoleAndTrailingBytesAreRefused) {
  ExpectRefused(FileBytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                          R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                          std::string(8, '\0')),
                "overlaps");
  ExpectRefused(
      FileBytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", std::string(8, '\0')),
      "hole");
  ExpectRefused(
      FileBytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", std::string(8, '\0')),
      "belong to no tensor");
}

TEST_F(SafetensorsTest, BrokenJsonIsRefused) {
  ExpectRefused(FileBytes("[1,2]", ""), "JSON object");
  ExpectRefused(FileBytes("{\"a\":", ""), "JSON object");
  ExpectRefused(FileBytes(std::string(10000, '['), ""), "JSON object");
  ExpectRefused(FileBytes("{\"\xff\":1}", ""), "JSON object");
}

}  // namespace
}  // namespace msa

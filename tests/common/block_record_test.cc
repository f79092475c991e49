#include "common/block_record.h"

#include <cstring>
#include <string>

#include "common/crc32c.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace msa {
namespace {

using ::testing::HasSubstr;

const BlockIdentity kIdentity = {.kind = RecordKind::kContent,
                                 .dtype = DType::kInt8,
                                 .layer = 15,
                                 .num_kv_heads = 3,
                                 .bank_uid = 0x0123456789ABCDEF,
                                 .reference = 42,
                                 .revision = 7,
                                 .fingerprint = "00112233445566778899aabbccddeeff",
                                 .rows = 5,
                                 .width = 192};

TEST(Crc32cTest, KnownVectors) {  // RFC 3720 B.4, and the customary check value
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c("6789", Crc32c("12345")), 0xE3069283u);
}

TEST(BlockRecordTest, ComesBackWithoutACopy) {
  const std::string record = EncodeRecord(kIdentity, "payload");
  ASSERT_EQ(record.size(), kRecordHeaderBytes + 7);
  auto decoded = DecodeRecord(record);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->identity, kIdentity);
  EXPECT_EQ(decoded->payload, "payload");
  EXPECT_EQ(decoded->payload.data(), record.data() + kRecordHeaderBytes);
  EXPECT_EQ(decoded->payload_crc32c, Crc32c("payload"));
  EXPECT_EQ(*VerifyRecord(record, kIdentity), "payload");
}

TEST(BlockRecordTest, TheHeaderLiesAsThePageSays) {
  const std::string record = EncodeRecord(kIdentity, "payload");
  const auto number = [&](size_t at, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<uint8_t>(record[at + i]);
    return value;
  };
  EXPECT_EQ(record.substr(0, 4), "MSAB");
  EXPECT_EQ(number(4, 2), 1u);
  EXPECT_EQ(number(6, 1), 2u);
  EXPECT_EQ(number(7, 1), 3u);
  EXPECT_EQ(number(8, 4), 15u);
  EXPECT_EQ(number(12, 4), 3u);
  EXPECT_EQ(number(16, 8), 0x0123456789ABCDEFu);
  EXPECT_EQ(number(24, 8), 42u);
  EXPECT_EQ(number(32, 8), 7u);
  EXPECT_EQ(record.substr(40, 32), kIdentity.fingerprint);
  EXPECT_EQ(number(72, 4), 5u);
  EXPECT_EQ(number(76, 4), 192u);
  EXPECT_EQ(number(80, 8), 7u);
  EXPECT_EQ(number(88, 4), Crc32c("payload"));
  EXPECT_EQ(number(92, 4), Crc32c(record.substr(0, 92)));
}

TEST(BlockRecordTest, EveryFlippedBitIsFound) {
  const std::string record = EncodeRecord(kIdentity, "some bytes of payload");
  for (size_t bit = 0; bit < record.size() * 8; ++bit) {
    std::string damaged = record;
    damaged[bit / 8] ^= static_cast<char>(1 << bit % 8);
    EXPECT_TRUE(absl::IsDataLoss(DecodeRecord(damaged).status())) << bit;
  }
}

TEST(BlockRecordTest, EveryOtherLengthIsFound) {
  const std::string record = EncodeRecord(kIdentity, "some bytes of payload");
  for (size_t size = 0; size < record.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(DecodeRecord(record.substr(0, size)).status())) << size;
  }
  EXPECT_TRUE(absl::IsDataLoss(DecodeRecord(record + "x").status()));
}

TEST(BlockRecordTest, SaysInWhatARecordDiffers) {
  const auto differs = [](auto change) {
    BlockIdentity expected = kIdentity;
    change(expected);
    const auto status = VerifyRecord(EncodeRecord(kIdentity, "p"), expected).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(differs([](auto& id) { id.kind = RecordKind::kRouting; }),
              HasSubstr("kind content instead of routing"));
  EXPECT_THAT(differs([](auto& id) { id.dtype = DType::kBFloat16; }), HasSubstr("dtype int8"));
  EXPECT_THAT(differs([](auto& id) { id.layer = 16; }), HasSubstr("layer 15 instead of 16"));
  EXPECT_THAT(differs([](auto& id) { id.num_kv_heads = 1; }), HasSubstr("num_kv_heads"));
  EXPECT_THAT(differs([](auto& id) { id.bank_uid = 1; }), HasSubstr("bank"));
  EXPECT_THAT(differs([](auto& id) { id.reference = 41; }),
              HasSubstr("reference 42 instead of 41"));
  EXPECT_THAT(differs([](auto& id) { id.revision = 8; }), HasSubstr("revision 7 instead of 8"));
  EXPECT_THAT(differs([](auto& id) { id.fingerprint = "other"; }), HasSubstr("instead of other"));
  EXPECT_THAT(differs([](auto& id) { id.rows = 4; }), HasSubstr("rows 5 instead of 4"));
  EXPECT_THAT(differs([](auto& id) { id.width = 1; }), HasSubstr("width"));
}

TEST(BlockRecordTest, OnlyFp8IsOfVersion2) {
  BlockIdentity identity = kIdentity;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
    identity.dtype = dtype;
    const std::string record = EncodeRecord(identity, "payload");
    EXPECT_EQ(record[4], dtype == DType::kFloat8 ? 2 : 1);
    EXPECT_EQ(DecodeRecord(record)->identity, identity);
  }
}

TEST(BlockRecordTest, AnotherVersionIsNoDamage) {
  std::string record = EncodeRecord(kIdentity, "p");
  record[4] = 9;
  const uint32_t crc = Crc32c(std::string_view(record).substr(0, 92));
  std::memcpy(record.data() + 92, &crc, sizeof(crc));
  const auto status = DecodeRecord(record).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 9"));
}

}  // namespace
}  // namespace msa

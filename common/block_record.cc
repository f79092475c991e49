#include "common/block_record.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_format.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa {
namespace {

// Numbers are copied as they lie in memory: the format is little-endian.
static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[4] = {'M', 'S', 'A', 'B'};

enum Offset : size_t {
  kMagicAt = 0,
  kVersionAt = 4,
  kKindAt = 6,
  kDTypeAt = 7,
  kLayerAt = 8,
  kHeadsAt = 12,
  kBankAt = 16,
  kReferenceAt = 24,
  kRevisionAt = 32,
  kFingerprintAt = 40,
  kRowsAt = 72,
  kWidthAt = 76,
  kPayloadBytesAt = 80,
  kPayloadCrcAt = 88,
  kHeaderCrcAt = 92,
};
static_assert(kFingerprintAt + kFingerprintBytes == kRowsAt);
static_assert(kHeaderCrcAt + sizeof(uint32_t) == kRecordHeaderBytes);

template <typename T>
void Store(char* header, Offset at, T value) {
  std::memcpy(header + at, &value, sizeof(value));
}

template <typename T>
T Load(std::string_view bytes, Offset at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

BlockIdentity LoadIdentity(std::string_view header) {
  std::string_view fingerprint = header.substr(kFingerprintAt, kFingerprintBytes);
  fingerprint = fingerprint.substr(0, fingerprint.find('\0'));
  return {.kind = Load<RecordKind>(header, kKindAt),
          .dtype = Load<DType>(header, kDTypeAt),
          .layer = Load<int32_t>(header, kLayerAt),
          .num_kv_heads = Load<int32_t>(header, kHeadsAt),
          .bank_uid = Load<uint64_t>(header, kBankAt),
          .reference = Load<int64_t>(header, kReferenceAt),
          .revision = Load<uint64_t>(header, kRevisionAt),
          .fingerprint = std::string(fingerprint),
          .rows = Load<uint32_t>(header, kRowsAt),
          .width = Load<uint32_t>(header, kWidthAt)};
}

// Magic, version and checksum of the header; the version is believed only when the checksum holds.
absl::Status CheckHeader(std::string_view bytes) {
  if (bytes.size() < kRecordHeaderBytes) {
    return absl::DataLossError(StrCat("record of ", bytes.size(), " bytes is shorter than its ",
                                      kRecordHeaderBytes, "-byte header"));
  }
  if (std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    return absl::DataLossError("record does not begin with the magic bytes 'MSAB'");
  }
  if (Crc32c(bytes.substr(0, kHeaderCrcAt)) != Load<uint32_t>(bytes, kHeaderCrcAt)) {
    return absl::DataLossError("record header does not match its checksum");
  }
  const auto version = Load<uint16_t>(bytes, kVersionAt);
  if (version < 1 || version > kRecordFormatVersion) {
    return absl::FailedPreconditionError(
        StrCat("record of format version ", version, "; this program reads versions 1 to ",
               kRecordFormatVersion, ": use the program that wrote it"));
  }
  return absl::OkStatus();
}

uint16_t VersionOf(const BlockIdentity& identity) {
  return identity.dtype == DType::kFloat8 ? 2 : 1;
}

template <typename T>
void Compare(std::string_view name, const T& found, const T& expected, std::string* differences) {
  if (found == expected) return;
  *differences +=
      StrCat(differences->empty() ? "" : ", ", name, " ", found, " instead of ", expected);
}

}  // namespace

std::string_view RecordKindName(RecordKind kind) {
  switch (kind) {
    case RecordKind::kRouting:
      return "routing";
    case RecordKind::kContent:
      return "content";
    case RecordKind::kDocument:
      return "document";
    case RecordKind::kText:
      return "text";
    case RecordKind::kTombstone:
      return "tombstone";
    case RecordKind::kBank:
      return "bank";
    case RecordKind::kGarbage:
      return "garbage";
    case RecordKind::kCoarse:
      return "coarse";
    case RecordKind::kWeights:
      return "weights";
  }
  return "unknown";
}

std::string BlockIdentity::ToString() const {
  return absl::StrFormat(
      "%s record of bank %016x, reference %d, revision %d, layer %d, %s, %d rows of %d",
      RecordKindName(kind), bank_uid, reference, revision, layer, DTypeName(dtype), rows, width);
}

RecordHeader EncodeRecordHeader(const BlockIdentity& identity, size_t payload_bytes,
                                uint32_t payload_crc32c) {
  MSA_CHECK(identity.fingerprint.size() <= kFingerprintBytes);
  RecordHeader header{};
  char* out = header.data();
  std::memcpy(out + kMagicAt, kMagic, sizeof(kMagic));
  Store(out, kVersionAt, VersionOf(identity));
  Store(out, kKindAt, identity.kind);
  Store(out, kDTypeAt, identity.dtype);
  Store(out, kLayerAt, identity.layer);
  Store(out, kHeadsAt, identity.num_kv_heads);
  Store(out, kBankAt, identity.bank_uid);
  Store(out, kReferenceAt, identity.reference);
  Store(out, kRevisionAt, identity.revision);
  std::memcpy(out + kFingerprintAt, identity.fingerprint.data(), identity.fingerprint.size());
  Store(out, kRowsAt, identity.rows);
  Store(out, kWidthAt, identity.width);
  Store(out, kPayloadBytesAt, static_cast<uint64_t>(payload_bytes));
  Store(out, kPayloadCrcAt, payload_crc32c);
  Store(out, kHeaderCrcAt, Crc32c(std::string_view(out, kHeaderCrcAt)));
  return header;
}

std::string EncodeRecord(const BlockIdentity& identity, std::string_view payload) {
  const RecordHeader header = EncodeRecordHeader(identity, payload.size(), Crc32c(payload));
  std::string record(header.begin(), header.end());
  record.append(payload);
  return record;
}

absl::StatusOr<BlockRecord> DecodeRecord(std::string_view bytes) {
  MSA_RETURN_IF_ERROR(CheckHeader(bytes));
  const std::string_view payload = bytes.substr(kRecordHeaderBytes);
  const auto payload_bytes = Load<uint64_t>(bytes, kPayloadBytesAt);
  if (payload.size() != payload_bytes) {
    return absl::DataLossError(StrCat("record has ", payload.size(),
                                      " bytes of payload where its header says ", payload_bytes));
  }
  const auto crc = Load<uint32_t>(bytes, kPayloadCrcAt);
  if (Crc32c(payload) != crc) {
    return absl::DataLossError("record payload does not match its checksum");
  }
  return BlockRecord{.identity = LoadIdentity(bytes), .payload_crc32c = crc, .payload = payload};
}

absl::Status CheckIdentity(const BlockIdentity& found, const BlockIdentity& expected) {
  if (found == expected) return absl::OkStatus();
  std::string differences;
  Compare("kind", RecordKindName(found.kind), RecordKindName(expected.kind), &differences);
  Compare("dtype", DTypeName(found.dtype), DTypeName(expected.dtype), &differences);
  Compare("layer", found.layer, expected.layer, &differences);
  Compare("num_kv_heads", found.num_kv_heads, expected.num_kv_heads, &differences);
  Compare("bank", found.bank_uid, expected.bank_uid, &differences);
  Compare("reference", found.reference, expected.reference, &differences);
  Compare("revision", found.revision, expected.revision, &differences);
  Compare("model", found.fingerprint, expected.fingerprint, &differences);
  Compare("rows", found.rows, expected.rows, &differences);
  Compare("width", found.width, expected.width, &differences);
  return absl::DataLossError(StrCat("record is another's: ", differences));
}

absl::StatusOr<std::string_view> VerifyRecord(std::string_view bytes,
                                              const BlockIdentity& expected) {
  MSA_ASSIGN_OR_RETURN(const BlockRecord record, DecodeRecord(bytes));
  MSA_RETURN_IF_ERROR(CheckIdentity(record.identity, expected));
  return record.payload;
}

}  // namespace msa

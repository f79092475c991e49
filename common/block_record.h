// The record: how a block looks on disk and on the wire. One header of 96 bytes, then the payload.
// Format: docs/storage_format.md. Writers make the header and send or store it before the payload;
// readers get views into the bytes they hold, nothing is copied. Stateless; thread-safe.
#ifndef MSA_COMMON_BLOCK_RECORD_H_
#define MSA_COMMON_BLOCK_RECORD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/dtype.h"

namespace msa {

inline constexpr size_t kRecordHeaderBytes = 96;
// Written are records of the earliest version that can hold them: 2 only with DType::kFloat8.
inline constexpr uint16_t kRecordFormatVersion = 2;
inline constexpr size_t kFingerprintBytes = 32;

// The numbers are written to disk: never reuse one.
enum class RecordKind : uint8_t {
  kRouting = 1,    // one part, one layer: routing keys
  kContent = 2,    // one part, one layer: K̄ and V̄
  kDocument = 3,   // what is known of a document's current revision
  kText = 4,       // one revision's description and text
  kTombstone = 5,  // in place of kDocument after a delete
  kBank = 6,       // a bank's specification
  kGarbage = 7,    // records to be removed when nobody reads them
  kCoarse = 8,     // whether a bank keeps codes of its keys, and how it was calibrated
  kWeights = 9,    // the precision of the weights that encode a bank's documents
};
std::string_view RecordKindName(RecordKind kind);

// What a record is of. A reader says what it expects; a record that says otherwise is refused.
struct BlockIdentity {
  RecordKind kind = RecordKind::kContent;
  // kFloat32 for kinds without a tensor, but kFloat8 for a bank that keeps anything in it: programs
  // that do not know fp8 refuse such a bank by the version of its record.
  DType dtype = DType::kFloat32;
  int32_t layer = 0;  // decoder layer; 0 for kinds without a tensor
  int32_t num_kv_heads = 0;
  uint64_t bank_uid = 0;
  int64_t reference = 0;
  uint64_t revision = 0;
  std::string fingerprint;  // of the model, at most kFingerprintBytes bytes
  uint32_t rows = 0;        // chunks
  uint32_t width = 0;       // elements of a row: num_kv_heads · head_dim

  bool operator==(const BlockIdentity&) const = default;
  // For messages: "content block of bank 000…1f, reference 7, revision 2, layer 15, …".
  std::string ToString() const;
};

// A parsed record. `payload` points into the bytes given to DecodeRecord and has their alignment:
// read numbers from it by memcpy.
struct BlockRecord {
  BlockIdentity identity;
  uint32_t payload_crc32c = 0;
  std::string_view payload;
};

using RecordHeader = std::array<char, kRecordHeaderBytes>;

// REQUIRES: identity.fingerprint.size() <= kFingerprintBytes. `payload_crc32c` is Crc32c(payload).
RecordHeader EncodeRecordHeader(const BlockIdentity& identity, size_t payload_bytes,
                                uint32_t payload_crc32c);
// Header and payload in one string: for small records and for tests.
std::string EncodeRecord(const BlockIdentity& identity, std::string_view payload);

// DATA_LOSS when `bytes` is not exactly one undamaged record: too short or long, wrong magic, wrong
// checksum of header or payload. FAILED_PRECONDITION for an intact record of an unknown version.
absl::StatusOr<BlockRecord> DecodeRecord(std::string_view bytes);

// DATA_LOSS naming each field in which an intact record differs from what was asked for.
absl::Status CheckIdentity(const BlockIdentity& found, const BlockIdentity& expected);

// Both in one: the payload of an undamaged record of just this identity.
absl::StatusOr<std::string_view> VerifyRecord(std::string_view bytes,
                                              const BlockIdentity& expected);

}  // namespace msa

#endif  // MSA_COMMON_BLOCK_RECORD_H_

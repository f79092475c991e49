// Records from a disk or a peer, and the payloads in them. Bytes with a wrong checksum go no
// further: so the same bytes are tried with checksums and length put right as well, and as a
// payload of each kind.
#include <cstring>
#include <string>

#include "common/block_record.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "memory_node/record_format.h"
#include "tests/fuzz/target.h"

namespace msa::memory_node {
namespace {

// docs/storage_format.md
constexpr size_t kPayloadBytesAt = 80, kPayloadCrcAt = 88, kHeaderCrcAt = 92;

std::string Mended(std::string_view bytes) {
  std::string record(bytes);
  if (record.size() < kRecordHeaderBytes) return record;
  const std::string_view payload = std::string_view(record).substr(kRecordHeaderBytes);
  const uint64_t payload_bytes = payload.size();
  std::memcpy(record.data() + kPayloadBytesAt, &payload_bytes, sizeof(payload_bytes));
  const uint32_t payload_crc = Crc32c(payload);
  std::memcpy(record.data() + kPayloadCrcAt, &payload_crc, sizeof(payload_crc));
  const uint32_t header_crc = Crc32c(std::string_view(record).substr(0, kHeaderCrcAt));
  std::memcpy(record.data() + kHeaderCrcAt, &header_crc, sizeof(header_crc));
  return record;
}

void TryRecord(std::string_view bytes) {
  const auto record = DecodeRecord(bytes);
  if (!record.ok()) return fuzz::CheckRefusal(record.status());
  MSA_CHECK(!record->identity.ToString().empty());
  const std::string written = EncodeRecord(record->identity, record->payload);
  const auto again = DecodeRecord(written);
  MSA_CHECK(again.ok() && again->identity == record->identity);
  MSA_CHECK(again->payload == record->payload);
  MSA_CHECK(VerifyRecord(written, record->identity).ok());
  BlockIdentity other = record->identity;
  other.layer ^= 1;
  fuzz::CheckRefusal(CheckIdentity(record->identity, other));
}

// What was read is written, and that is read and written the same: bytes are compared, as a number
// that is none is not equal to itself.
template <typename Decode, typename Encode>
void TryPayload(std::string_view bytes, Decode decode, Encode encode) {
  const auto payload = decode(bytes);
  if (!payload.ok()) return fuzz::CheckRefusal(payload.status());
  const std::string written = encode(*payload);
  const auto again = decode(written);
  MSA_CHECK(again.ok());
  MSA_CHECK(encode(*again) == written);
  MSA_CHECK(written.size() == bytes.size());
}

void TryPayloads(std::string_view bytes) {
  TryPayload(bytes, DecodeDocumentPayload, EncodeDocumentPayload);
  TryPayload(bytes, DecodeTextPayload, EncodeTextPayload);
  TryPayload(bytes, DecodeTombstonePayload, EncodeTombstonePayload);
  TryPayload(bytes, DecodeGarbagePayload, EncodeGarbagePayload);
  TryPayload(bytes, DecodeBankPayload, EncodeBankPayload);
  TryPayload(bytes, DecodeCoarsePayload, EncodeCoarsePayload);
  TryPayload(bytes, DecodeWeightsPayload, EncodeWeightsPayload);
  TryPayload(bytes, DecodeNextReference, EncodeNextReference);
  KeyBankUid(bytes);
  KeyReference(bytes);
}

}  // namespace
}  // namespace msa::memory_node

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes = msa::fuzz::View(data, size);
  msa::memory_node::TryRecord(bytes);
  msa::memory_node::TryRecord(msa::memory_node::Mended(bytes));
  msa::memory_node::TryPayloads(bytes);
  if (size >= msa::kRecordHeaderBytes) {
    msa::memory_node::TryPayloads(bytes.substr(msa::kRecordHeaderBytes));
  }
  return 0;
}

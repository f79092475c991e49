// Keys and the payloads without tensors, as docs/storage_format.md says. Stateless; thread-safe.
// Decoders give DATA_LOSS for bytes that are not such a payload.
#ifndef MSA_MEMORY_NODE_RECORD_FORMAT_H_
#define MSA_MEMORY_NODE_RECORD_FORMAT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/block_record.h"
#include "rpc/types.h"

namespace msa::memory_node {

// ---- Keys
std::string MetaKey(uint64_t bank_uid, std::string_view id);
std::string TextKey(uint64_t bank_uid, int64_t first_reference);
std::string BlockKey(uint64_t bank_uid, int64_t reference, int32_t layer);  // routing and content
std::string BankKey(uint64_t bank_uid);
std::string NextReferenceKey(uint64_t bank_uid);
std::string TakenReferencesKey(uint64_t bank_uid);
std::string GarbageKey(uint64_t bank_uid, int64_t first_reference);
std::string DeletedBankKey(uint64_t bank_uid);
std::string SweptBankKey(uint64_t bank_uid);
std::string CoarseKey(uint64_t bank_uid);
std::string WeightsKey(uint64_t bank_uid);
// All keys of a bank in meta, text, routing and content begin with this.
std::string BankPrefix(uint64_t bank_uid);
// The first key after all that begin with `prefix`. REQUIRES: not all bytes 0xFF.
std::string PrefixEnd(std::string prefix);
// The uid in a "b…" or "x…" key, the reference in a text, routing or content key; 0, -1 for others.
uint64_t KeyBankUid(std::string_view system_key);
int64_t KeyReference(std::string_view key);

// ---- Payloads
// What is kept of a revision besides its text.
struct Description {
  rpc::DocumentInfo info;
  int64_t max_reference = -1;  // the largest its id ever had
  int64_t first_reference() const { return info.parts.front().reference; }
};

struct DocumentPayload {
  Description description;
  uint32_t put_digest = 0;  // CRC32C over all that was put
};
std::string EncodeDocumentPayload(const DocumentPayload& document);
absl::StatusOr<DocumentPayload> DecodeDocumentPayload(std::string_view bytes);

struct TextPayload {
  Description description;
  std::string_view full_text;  // into the bytes decoded
};
std::string EncodeTextPayload(const TextPayload& text);
absl::StatusOr<TextPayload> DecodeTextPayload(std::string_view bytes);

std::string EncodeTombstonePayload(int64_t max_reference);
absl::StatusOr<int64_t> DecodeTombstonePayload(std::string_view bytes);

struct GarbagePayload {
  std::vector<int64_t> references;
  std::string id;
};
std::string EncodeGarbagePayload(const GarbagePayload& garbage);
absl::StatusOr<GarbagePayload> DecodeGarbagePayload(std::string_view bytes);

std::string EncodeBankPayload(const rpc::BankSpec& spec);
absl::StatusOr<rpc::BankSpec> DecodeBankPayload(std::string_view bytes);

std::string EncodeCoarsePayload(const rpc::CoarseState& state);
absl::StatusOr<rpc::CoarseState> DecodeCoarsePayload(std::string_view bytes);

std::string EncodeWeightsPayload(DType dtype);
absl::StatusOr<DType> DecodeWeightsPayload(std::string_view bytes);

// Of the largest stored and of the largest taken.
std::string EncodeNextReference(int64_t next_reference);
absl::StatusOr<int64_t> DecodeNextReference(std::string_view bytes);

// ---- Records
// What a document's block of one layer must say of itself. REQUIRES: `layer` is of the bank.
BlockIdentity RoutingIdentity(const rpc::BankSpec& bank, int64_t reference, uint64_t revision,
                              int32_t layer, int32_t routing_chunks);
BlockIdentity ContentIdentity(const rpc::BankSpec& bank, int64_t reference, uint64_t revision,
                              int32_t layer, int32_t content_chunks);
// Of the kinds without a tensor.
BlockIdentity PlainIdentity(const rpc::BankSpec& bank, RecordKind kind, int64_t first_reference,
                            uint64_t revision);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_RECORD_FORMAT_H_

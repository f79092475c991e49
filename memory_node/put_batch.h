// Between documents as they travel (rpc/types.h) and records as they lie in the store. Stateless;
// thread-safe.
#ifndef MSA_MEMORY_NODE_PUT_BATCH_H_
#define MSA_MEMORY_NODE_PUT_BATCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "memory_node/bank.h"
#include "memory_node/document_store.h"
#include "memory_node/record_format.h"
#include "rpc/types.h"

namespace msa::memory_node {

// Revision and max_reference are left to the caller.
DocumentEntry MakeEntry(const rpc::EncodedDocument& document);
// Borrows the payloads.
std::vector<IndexPart> IndexParts(const rpc::EncodedDocument& document);

// All records of one revision. Borrows the payloads until the commit.
void AddDocument(const rpc::BankSpec& bank, const DocumentEntry& entry,
                 const rpc::EncodedDocument& document, int64_t added_unix_micros, WriteSet* writes);
void AddTombstone(const rpc::BankSpec& bank, const DocumentEntry& entry, WriteSet* writes);
// Nothing for an entry whose references are unknown.
void AddGarbage(const rpc::BankSpec& bank, const DocumentEntry& entry, WriteSet* writes);

// NOT_FOUND when there is none any more; DATA_LOSS.
absl::StatusOr<rpc::DocumentInfo> ReadDocumentInfo(DocumentStore& store, const rpc::BankSpec& bank,
                                                   const std::string& id);
struct Tombstone {
  uint64_t revision = 0;
  int64_t max_reference = -1;
  int64_t first_reference = -1;  // of the last revision; -1: not known
};
// NOT_FOUND when the id was never there; DATA_LOSS. REQUIRES: no such document lives.
absl::StatusOr<Tombstone> ReadTombstone(DocumentStore& store, const rpc::BankSpec& bank,
                                        const std::string& id);
// Whether `document` is what was stored, but for its blocks: another node's encoding differs in
// bits.
bool SameButBlocks(const TextPayload& stored, const rpc::EncodedDocument& document);
// The whole verified record, uncopied. NOT_FOUND; DATA_LOSS.
absl::StatusOr<rpc::Payload> ReadContent(DocumentStore& store, const rpc::BankSpec& bank,
                                         const DocumentEntry& entry, int64_t reference,
                                         int32_t layer);
// DATA_LOSS when the text has no such part.
absl::StatusOr<rpc::PartText> MakePartText(const TextPayload& text, int64_t reference,
                                           int32_t part_index);

}  // namespace msa::memory_node

#endif  // MSA_MEMORY_NODE_PUT_BATCH_H_

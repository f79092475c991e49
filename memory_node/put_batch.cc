#include "memory_node/put_batch.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "common/crc32c.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "memory_node/validation.h"

namespace msa::memory_node {
namespace {

Description Describe(const DocumentEntry& entry, const rpc::EncodedDocument& document,
                     size_t text_bytes, int64_t added_unix_micros) {
  Description description;
  description.max_reference = entry.max_reference;
  rpc::DocumentInfo& info = description.info;
  info.id = document.document.id;
  info.title = document.document.title;
  info.metadata = document.document.metadata;
  info.revision = entry.revision;
  info.text_bytes = text_bytes;
  info.added_unix_micros = added_unix_micros;
  for (const rpc::EncodedPart& part : document.parts) {
    info.parts.push_back({part.reference, part.span, part.num_tokens, part.routing_chunks});
  }
  return description;
}

void PutBlock(Table table, std::string key, const BlockIdentity& identity, std::string_view payload,
              uint32_t crc32c, WriteSet* writes) {
  const RecordHeader header = EncodeRecordHeader(identity, payload.size(), crc32c);
  const std::string_view kept = writes->Keep(std::string(header.begin(), header.end()));
  writes->PutPieces(table, std::move(key), {kept, payload});
}

int32_t ContentChunks(const rpc::BankSpec& bank, int32_t num_tokens) {
  return (num_tokens + bank.content_chunk_tokens - 1) / bank.content_chunk_tokens;
}

}  // namespace

DocumentEntry MakeEntry(const rpc::EncodedDocument& document) {
  DocumentEntry entry;
  entry.id = document.document.id;
  entry.put_digest = PutDigest(document);
  for (const rpc::EncodedPart& part : document.parts) {
    entry.references.push_back(part.reference);
    entry.part_tokens.push_back(part.num_tokens);
    entry.num_tokens += part.num_tokens;
    entry.num_chunks += part.routing_chunks;
  }
  return entry;
}

std::vector<IndexPart> IndexParts(const rpc::EncodedDocument& document) {
  std::vector<IndexPart> parts;
  for (const rpc::EncodedPart& part : document.parts) {
    IndexPart& added = parts.emplace_back();
    added.reference = part.reference;
    added.chunks = part.routing_chunks;
    added.content_chunks = part.content_chunks;
    for (const rpc::EncodedLayer& layer : part.layers) added.layers.push_back(layer.routing.view());
  }
  return parts;
}

void AddDocument(const rpc::BankSpec& bank, const DocumentEntry& entry,
                 const rpc::EncodedDocument& document, int64_t added_unix_micros,
                 WriteSet* writes) {
  const int64_t first = entry.references.front();
  const std::string full_text = document.document.FullText();
  const Description description = Describe(entry, document, full_text.size(), added_unix_micros);
  const auto plain = [&](RecordKind kind) {
    return PlainIdentity(bank, kind, first, entry.revision);
  };
  writes->Put(Table::kMeta, MetaKey(bank.uid, entry.id),
              EncodeRecord(plain(RecordKind::kDocument),
                           EncodeDocumentPayload({description, entry.put_digest})));
  writes->Put(Table::kText, TextKey(bank.uid, first),
              EncodeRecord(plain(RecordKind::kText), EncodeTextPayload({description, full_text})));
  for (const rpc::EncodedPart& part : document.parts) {
    for (size_t i = 0; i < part.layers.size(); ++i) {
      const rpc::EncodedLayer& layer = part.layers[i];
      const int32_t number = bank.router_layers[i];
      PutBlock(Table::kRouting, BlockKey(bank.uid, part.reference, number),
               RoutingIdentity(bank, part.reference, entry.revision, number, part.routing_chunks),
               layer.routing.view(), layer.routing_crc32c, writes);
      PutBlock(Table::kContent, BlockKey(bank.uid, part.reference, number),
               ContentIdentity(bank, part.reference, entry.revision, number, part.content_chunks),
               layer.content.view(), layer.content_crc32c, writes);
    }
  }
}

void AddTombstone(const rpc::BankSpec& bank, const DocumentEntry& entry, WriteSet* writes) {
  const int64_t first = entry.references.empty() ? 0 : entry.references.front();
  writes->Put(Table::kMeta, MetaKey(bank.uid, entry.id),
              EncodeRecord(PlainIdentity(bank, RecordKind::kTombstone, first, entry.revision),
                           EncodeTombstonePayload(entry.max_reference)));
}

void AddGarbage(const rpc::BankSpec& bank, const DocumentEntry& entry, WriteSet* writes) {
  if (entry.references.empty()) return;
  const int64_t first = entry.references.front();
  writes->Put(Table::kSystem, GarbageKey(bank.uid, first),
              EncodeRecord(PlainIdentity(bank, RecordKind::kGarbage, first, entry.revision),
                           EncodeGarbagePayload({entry.references, entry.id})));
}

absl::StatusOr<rpc::DocumentInfo> ReadDocumentInfo(DocumentStore& store, const rpc::BankSpec& bank,
                                                   const std::string& id) {
  MSA_ASSIGN_OR_RETURN(const rpc::Payload value, store.Get(Table::kMeta, MetaKey(bank.uid, id)));
  MSA_ASSIGN_OR_RETURN(const BlockRecord record, DecodeRecord(value.view()));
  if (record.identity.kind == RecordKind::kTombstone) return absl::NotFoundError("deleted");
  MSA_ASSIGN_OR_RETURN(DocumentPayload payload, DecodeDocumentPayload(record.payload));
  MSA_RETURN_IF_ERROR(CheckIdentity(
      record.identity,
      PlainIdentity(bank, RecordKind::kDocument, payload.description.first_reference(),
                    payload.description.info.revision)));
  if (payload.description.info.id != id) return absl::DataLossError("record of another document");
  return std::move(payload.description.info);
}

absl::StatusOr<Tombstone> ReadTombstone(DocumentStore& store, const rpc::BankSpec& bank,
                                        const std::string& id) {
  MSA_ASSIGN_OR_RETURN(const rpc::Payload value, store.Get(Table::kMeta, MetaKey(bank.uid, id)));
  MSA_ASSIGN_OR_RETURN(const BlockRecord record, DecodeRecord(value.view()));
  const BlockIdentity& is = record.identity;
  MSA_RETURN_IF_ERROR(
      CheckIdentity(is, PlainIdentity(bank, RecordKind::kTombstone, is.reference, is.revision)));
  MSA_ASSIGN_OR_RETURN(const int64_t max_reference, DecodeTombstonePayload(record.payload));
  return Tombstone{is.revision, max_reference, is.reference};
}

bool SameButBlocks(const TextPayload& stored, const rpc::EncodedDocument& document) {
  const rpc::DocumentInfo& info = stored.description.info;
  const auto same = [](const auto& a, const rpc::EncodedPart& b) {
    return a.reference == b.reference && a.span.begin == b.span.begin && a.span.end == b.span.end &&
           a.num_tokens == b.num_tokens;
  };
  return info.id == document.document.id && info.title == document.document.title &&
         info.metadata == document.document.metadata &&
         stored.full_text == document.document.FullText() &&
         std::equal(info.parts.begin(), info.parts.end(), document.parts.begin(),
                    document.parts.end(), same);
}

absl::StatusOr<rpc::Payload> ReadContent(DocumentStore& store, const rpc::BankSpec& bank,
                                         const DocumentEntry& entry, int64_t reference,
                                         int32_t layer) {
  int32_t tokens = 0;
  for (size_t i = 0; i < entry.references.size(); ++i) {
    if (entry.references[i] == reference) tokens = entry.part_tokens[i];
  }
  MSA_ASSIGN_OR_RETURN(rpc::Payload value,
                       store.Get(Table::kContent, BlockKey(bank.uid, reference, layer)));
  const BlockIdentity identity =
      ContentIdentity(bank, reference, entry.revision, layer, ContentChunks(bank, tokens));
  MSA_RETURN_IF_ERROR(VerifyRecord(value.view(), identity).status());
  return value;
}

absl::StatusOr<rpc::PartText> MakePartText(const TextPayload& text, int64_t reference,
                                           int32_t part_index) {
  const rpc::DocumentInfo& info = text.description.info;
  const size_t index = part_index;
  if (index >= info.parts.size() || info.parts[index].reference != reference ||
      info.parts[index].span.end > text.full_text.size() ||
      info.parts[index].span.begin > info.parts[index].span.end) {
    return absl::DataLossError(
        StrCat("the text of document '", info.id, "' has no part with reference ", reference));
  }
  const rpc::ByteSpan span = info.parts[index].span;
  rpc::PartText part;
  part.reference = reference;
  part.document_id = info.id;
  part.title = info.title;
  part.revision = info.revision;
  part.part_index = part_index;
  part.num_parts = static_cast<int32_t>(info.parts.size());
  part.span = span;
  part.text = std::string(text.full_text.substr(span.begin, span.end - span.begin));
  return part;
}

}  // namespace msa::memory_node

#include "memory_node/record_format.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "common/crc32c.h"
#include "common/status_macros.h"

namespace msa::memory_node {
namespace {

void AppendBigEndian64(uint64_t value, std::string* out) {
  for (int shift = 56; shift >= 0; shift -= 8) out->push_back(static_cast<char>(value >> shift));
}

void AppendBigEndian32(uint32_t value, std::string* out) {
  for (int shift = 24; shift >= 0; shift -= 8) out->push_back(static_cast<char>(value >> shift));
}

uint64_t ReadBigEndian64(std::string_view bytes) {
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

std::string SystemKey(char kind, uint64_t bank_uid) {
  std::string key(1, kind);
  AppendBigEndian64(bank_uid, &key);
  return key;
}

class Writer {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    out_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void String(std::string_view text) {
    Number(static_cast<uint32_t>(text.size()));
    out_.append(text);
  }
  std::string Take() { return std::move(out_); }

 private:
  std::string out_;
};

// Reads what Writer wrote. After running past the end everything reads as zero and Done() fails.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T Number() {
    T value{};
    if (bytes_.size() < sizeof(T)) {
      failed_ = true;
      return value;
    }
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
    return value;
  }
  std::string_view String() {
    const auto size = Number<uint32_t>();
    if (bytes_.size() < size) failed_ = true;
    if (failed_) return {};
    const std::string_view text = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return text;
  }
  // A count of things of at least `bytes_each`: 0 when so many cannot follow.
  uint32_t Count(size_t bytes_each) {
    const auto count = Number<uint32_t>();
    if (count <= bytes_.size() / bytes_each) return count;
    failed_ = true;
    return 0;
  }
  absl::Status Done(const char* what) const {
    if (!failed_ && bytes_.empty()) return absl::OkStatus();
    return absl::DataLossError(std::string(what) + " payload has the wrong length");
  }

 private:
  std::string_view bytes_;
  bool failed_ = false;
};

void WriteDescription(const Description& description, Writer* out) {
  const rpc::DocumentInfo& info = description.info;
  out->String(info.id);
  out->String(info.title);
  out->String(info.metadata);
  out->Number(info.revision);
  out->Number(info.text_bytes);
  out->Number(info.added_unix_micros);
  out->Number(description.max_reference);
  out->Number(static_cast<uint32_t>(info.parts.size()));
  for (const rpc::PartInfo& part : info.parts) {
    out->Number(part.reference);
    out->Number(part.span.begin);
    out->Number(part.span.end);
    out->Number(part.num_tokens);
    out->Number(part.routing_chunks);
  }
}

Description ReadDescription(Reader* in) {
  Description description;
  rpc::DocumentInfo& info = description.info;
  info.id = in->String();
  info.title = in->String();
  info.metadata = in->String();
  info.revision = in->Number<uint64_t>();
  info.text_bytes = in->Number<uint64_t>();
  info.added_unix_micros = in->Number<int64_t>();
  description.max_reference = in->Number<int64_t>();
  info.parts.resize(in->Count(32));
  for (rpc::PartInfo& part : info.parts) {
    part.reference = in->Number<int64_t>();
    part.span.begin = in->Number<uint64_t>();
    part.span.end = in->Number<uint64_t>();
    part.num_tokens = in->Number<int32_t>();
    part.routing_chunks = in->Number<int32_t>();
  }
  return description;
}

absl::Status CheckDescription(const Description& description) {
  if (!description.info.parts.empty()) return absl::OkStatus();
  return absl::DataLossError("document without parts");
}

BlockIdentity TensorIdentity(const rpc::BankSpec& bank, RecordKind kind, DType dtype, int32_t layer,
                             int64_t reference, uint64_t revision, int32_t rows) {
  return {.kind = kind,
          .dtype = dtype,
          .layer = layer,
          .num_kv_heads = bank.routing.num_kv_heads,
          .bank_uid = bank.uid,
          .reference = reference,
          .revision = revision,
          .fingerprint = bank.model_fingerprint,
          .rows = static_cast<uint32_t>(rows),
          .width = static_cast<uint32_t>(bank.routing.key_width())};
}

}  // namespace

std::string BankPrefix(uint64_t bank_uid) {
  std::string key;
  AppendBigEndian64(bank_uid, &key);
  return key;
}

std::string MetaKey(uint64_t bank_uid, std::string_view id) {
  std::string key = BankPrefix(bank_uid);
  key.append(id);
  return key;
}

std::string TextKey(uint64_t bank_uid, int64_t first_reference) {
  std::string key = BankPrefix(bank_uid);
  AppendBigEndian64(static_cast<uint64_t>(first_reference), &key);
  return key;
}

std::string BlockKey(uint64_t bank_uid, int64_t reference, int32_t layer) {
  std::string key = TextKey(bank_uid, reference);
  AppendBigEndian32(static_cast<uint32_t>(layer), &key);
  return key;
}

std::string BankKey(uint64_t bank_uid) { return SystemKey('b', bank_uid); }
std::string NextReferenceKey(uint64_t bank_uid) { return SystemKey('n', bank_uid); }
std::string TakenReferencesKey(uint64_t bank_uid) { return SystemKey('r', bank_uid); }
std::string DeletedBankKey(uint64_t bank_uid) { return SystemKey('x', bank_uid); }
std::string SweptBankKey(uint64_t bank_uid) { return SystemKey('d', bank_uid); }
std::string CoarseKey(uint64_t bank_uid) { return SystemKey('c', bank_uid); }
std::string WeightsKey(uint64_t bank_uid) { return SystemKey('w', bank_uid); }

std::string GarbageKey(uint64_t bank_uid, int64_t first_reference) {
  std::string key = SystemKey('g', bank_uid);
  AppendBigEndian64(static_cast<uint64_t>(first_reference), &key);
  return key;
}

std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

uint64_t KeyBankUid(std::string_view system_key) {
  return system_key.size() < 9 ? 0 : ReadBigEndian64(system_key.substr(1));
}

int64_t KeyReference(std::string_view key) {
  return key.size() < 16 ? -1 : static_cast<int64_t>(ReadBigEndian64(key.substr(8)));
}

std::string EncodeDocumentPayload(const DocumentPayload& document) {
  Writer out;
  WriteDescription(document.description, &out);
  out.Number(document.put_digest);
  return out.Take();
}

absl::StatusOr<DocumentPayload> DecodeDocumentPayload(std::string_view bytes) {
  Reader in(bytes);
  DocumentPayload document;
  document.description = ReadDescription(&in);
  document.put_digest = in.Number<uint32_t>();
  MSA_RETURN_IF_ERROR(in.Done("document"));
  MSA_RETURN_IF_ERROR(CheckDescription(document.description));
  return document;
}

std::string EncodeTextPayload(const TextPayload& text) {
  Writer out;
  WriteDescription(text.description, &out);
  out.String(text.full_text);
  return out.Take();
}

absl::StatusOr<TextPayload> DecodeTextPayload(std::string_view bytes) {
  Reader in(bytes);
  TextPayload text;
  text.description = ReadDescription(&in);
  text.full_text = in.String();
  MSA_RETURN_IF_ERROR(in.Done("text"));
  MSA_RETURN_IF_ERROR(CheckDescription(text.description));
  return text;
}

std::string EncodeTombstonePayload(int64_t max_reference) {
  Writer out;
  out.Number(max_reference);
  return out.Take();
}

absl::StatusOr<int64_t> DecodeTombstonePayload(std::string_view bytes) {
  Reader in(bytes);
  const auto max_reference = in.Number<int64_t>();
  MSA_RETURN_IF_ERROR(in.Done("tombstone"));
  return max_reference;
}

std::string EncodeGarbagePayload(const GarbagePayload& garbage) {
  Writer out;
  out.Number(static_cast<uint32_t>(garbage.references.size()));
  for (int64_t reference : garbage.references) out.Number(reference);
  out.String(garbage.id);
  return out.Take();
}

absl::StatusOr<GarbagePayload> DecodeGarbagePayload(std::string_view bytes) {
  Reader in(bytes);
  GarbagePayload garbage;
  garbage.references.resize(in.Count(sizeof(int64_t)));
  for (int64_t& reference : garbage.references) reference = in.Number<int64_t>();
  garbage.id = in.String();
  MSA_RETURN_IF_ERROR(in.Done("garbage"));
  return garbage;
}

std::string EncodeBankPayload(const rpc::BankSpec& spec) {
  Writer out;
  out.String(spec.name);
  out.String(spec.model_fingerprint);
  out.String(spec.model_name);
  out.Number(static_cast<uint32_t>(spec.router_layers.size()));
  for (int32_t layer : spec.router_layers) out.Number(layer);
  out.Number(static_cast<int32_t>(spec.routing.num_q_heads));
  out.Number(static_cast<int32_t>(spec.routing.num_kv_heads));
  out.Number(static_cast<int32_t>(spec.routing.head_dim));
  out.Number(spec.routing.head);
  out.Number(spec.routing.query);
  out.Number(spec.routing.chunk);
  out.Number(spec.routing.scale);
  out.Number(spec.routing_chunk_tokens);
  out.Number(spec.content_chunk_tokens);
  out.Number(spec.routing_dtype);
  out.Number(spec.content_dtype);
  out.Number(spec.part_tokens);
  out.Number(static_cast<uint8_t>(spec.parse_special_tokens));
  return out.Take();
}

absl::StatusOr<rpc::BankSpec> DecodeBankPayload(std::string_view bytes) {
  Reader in(bytes);
  rpc::BankSpec spec;
  spec.name = in.String();
  spec.model_fingerprint = in.String();
  spec.model_name = in.String();
  spec.router_layers.resize(in.Count(sizeof(int32_t)));
  for (int32_t& layer : spec.router_layers) layer = in.Number<int32_t>();
  spec.routing.num_q_heads = in.Number<int32_t>();
  spec.routing.num_kv_heads = in.Number<int32_t>();
  spec.routing.head_dim = in.Number<int32_t>();
  spec.routing.head = in.Number<Reduce>();
  spec.routing.query = in.Number<Reduce>();
  spec.routing.chunk = in.Number<Reduce>();
  spec.routing.scale = in.Number<float>();
  spec.routing_chunk_tokens = in.Number<int32_t>();
  spec.content_chunk_tokens = in.Number<int32_t>();
  spec.routing_dtype = in.Number<DType>();
  spec.content_dtype = in.Number<DType>();
  spec.part_tokens = in.Number<int32_t>();
  spec.parse_special_tokens = in.Number<uint8_t>() != 0;
  MSA_RETURN_IF_ERROR(in.Done("bank"));
  return spec;
}

std::string EncodeCoarsePayload(const rpc::CoarseState& state) {
  Writer out;
  out.Number(static_cast<uint8_t>(state.codes));
  out.Number(static_cast<uint8_t>(state.on));
  out.Number(state.candidates);
  out.Number(state.top_k);
  out.Number(state.selections);
  out.Number(state.same);
  out.Number(state.num_parts);
  out.Number(state.next_reference);
  return out.Take();
}

absl::StatusOr<rpc::CoarseState> DecodeCoarsePayload(std::string_view bytes) {
  Reader in(bytes);
  rpc::CoarseState state;
  state.codes = in.Number<uint8_t>() != 0;
  state.on = in.Number<uint8_t>() != 0;
  state.candidates = in.Number<int32_t>();
  state.top_k = in.Number<int32_t>();
  state.selections = in.Number<int64_t>();
  state.same = in.Number<int64_t>();
  state.num_parts = in.Number<int64_t>();
  state.next_reference = in.Number<int64_t>();
  MSA_RETURN_IF_ERROR(in.Done("coarse"));
  return state;
}

std::string EncodeWeightsPayload(DType dtype) {
  Writer out;
  out.Number(dtype);
  return out.Take();
}

absl::StatusOr<DType> DecodeWeightsPayload(std::string_view bytes) {
  Reader in(bytes);
  const auto dtype = in.Number<DType>();
  MSA_RETURN_IF_ERROR(in.Done("weights"));
  return dtype;
}

std::string EncodeNextReference(int64_t next_reference) {
  Writer out;
  out.Number(next_reference);
  std::string bytes = out.Take();
  const uint32_t crc = Crc32c(bytes);
  bytes.append(reinterpret_cast<const char*>(&crc), sizeof(crc));
  return bytes;
}

absl::StatusOr<int64_t> DecodeNextReference(std::string_view bytes) {
  Reader in(bytes);
  const auto next_reference = in.Number<int64_t>();
  const auto crc = in.Number<uint32_t>();
  MSA_RETURN_IF_ERROR(in.Done("next reference"));
  if (crc == Crc32c(bytes.substr(0, sizeof(int64_t)))) return next_reference;
  return absl::DataLossError("next reference does not match its checksum");
}

BlockIdentity RoutingIdentity(const rpc::BankSpec& bank, int64_t reference, uint64_t revision,
                              int32_t layer, int32_t routing_chunks) {
  return TensorIdentity(bank, RecordKind::kRouting, bank.routing_dtype, layer, reference, revision,
                        routing_chunks);
}

BlockIdentity ContentIdentity(const rpc::BankSpec& bank, int64_t reference, uint64_t revision,
                              int32_t layer, int32_t content_chunks) {
  return TensorIdentity(bank, RecordKind::kContent, bank.content_dtype, layer, reference, revision,
                        content_chunks);
}

BlockIdentity PlainIdentity(const rpc::BankSpec& bank, RecordKind kind, int64_t first_reference,
                            uint64_t revision) {
  BlockIdentity identity;
  identity.kind = kind;
  identity.bank_uid = bank.uid;
  identity.reference = first_reference;
  identity.revision = revision;
  identity.fingerprint = bank.model_fingerprint;
  const bool has_fp8 = bank.routing_dtype == DType::kFloat8 || bank.content_dtype == DType::kFloat8;
  if (kind == RecordKind::kBank && has_fp8) identity.dtype = DType::kFloat8;
  return identity;
}

}  // namespace msa::memory_node

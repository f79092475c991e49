#include "memory_node/validation.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>

#include "common/block_layout.h"
#include "common/block_record.h"
#include "common/crc32c.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "kernels/coarse_codes.h"

namespace msa::memory_node {
namespace {

constexpr size_t kMaxRouterLayers = 512;
constexpr int kMaxHeads = 1024;
constexpr int kMaxHeadDim = 4096;

template <typename... Args>
absl::Status Invalid(const Args&... args) {
  return absl::InvalidArgumentError(StrCat(args...));
}

bool HasControlCharacter(std::string_view text) {
  for (unsigned char c : text) {
    if (c < 0x20 || c == 0x7F) return true;
  }
  return false;
}

absl::Status CheckSize(std::string_view what, size_t bytes, size_t limit) {
  if (bytes <= limit) return absl::OkStatus();
  return Invalid(what, " has ", bytes, " bytes; at most ", limit, " are allowed");
}

// Whether some number has all exponent bits set: infinite or not a number.
template <typename Bits>
bool AnyNotFinite(const char* data, size_t count, Bits exponent_mask) {
  Bits found = 0;
  for (size_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, data + i * sizeof(Bits), sizeof(Bits));
    found |= static_cast<Bits>((bits & exponent_mask) == exponent_mask);
  }
  return found != 0;
}

bool AnyNotFinite(std::string_view numbers, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return AnyNotFinite<uint32_t>(numbers.data(), numbers.size() / 4, 0x7F800000);
    case DType::kBFloat16:
      return AnyNotFinite<uint16_t>(numbers.data(), numbers.size() / 2, 0x7F80);
    case DType::kFloat16:
      return AnyNotFinite<uint16_t>(numbers.data(), numbers.size() / 2, 0x7C00);
    case DType::kFloat8:
      return std::any_of(numbers.begin(), numbers.end(), [](char c) { return (c & 0x7F) == 0x7F; });
    case DType::kInt8:
      return false;
  }
  return true;
}

struct BlockCheck {
  std::string_view what;  // "routing" or "content"
  std::string_view payload;
  uint32_t crc32c;
  size_t size;          // that fits the bank
  size_t scales_begin;  // numbers of `dtype` before, float32 scales from here on
  DType dtype;
};

absl::Status CheckBlock(const BlockCheck& block) {
  if (block.payload.size() != block.size) {
    return Invalid(block.what, " block has ", block.payload.size(), " bytes; ", block.size,
                   " fit the bank");
  }
  if (Crc32c(block.payload) != block.crc32c) {
    return absl::DataLossError(
        StrCat(block.what, " block does not match its checksum: damaged on the way, send again"));
  }
  if (AnyNotFinite(block.payload.substr(0, block.scales_begin), block.dtype) ||
      AnyNotFinite(block.payload.substr(block.scales_begin), DType::kFloat32)) {
    return Invalid(block.what, " block holds a number that is not finite");
  }
  return absl::OkStatus();
}

absl::Status CheckLayer(const rpc::BankSpec& bank, const rpc::EncodedPart& part,
                        const rpc::EncodedLayer& layer) {
  const RoutingShape& shape = bank.routing;
  const RoutingBlockLayout routing(bank.routing_dtype, part.routing_chunks, shape.key_width());
  MSA_RETURN_IF_ERROR(CheckBlock({"routing", layer.routing.view(), layer.routing_crc32c,
                                  routing.size, routing.scales_offset, bank.routing_dtype}));
  const ContentBlockLayout content(bank.content_dtype, part.content_chunks, shape.num_kv_heads,
                                   shape.head_dim);
  return CheckBlock({"content", layer.content.view(), layer.content_crc32c, content.size,
                     content.k_scales_offset, bank.content_dtype});
}

int32_t ChunksOf(int32_t num_tokens, int32_t chunk_tokens) {
  return (num_tokens + chunk_tokens - 1) / chunk_tokens;
}

absl::Status CheckPartShape(const rpc::BankSpec& bank, const rpc::EncodedPart& part,
                            size_t text_bytes) {
  if (part.span.begin > part.span.end || part.span.end > text_bytes) {
    return Invalid("span ", part.span.begin, "-", part.span.end, " is not within the text of ",
                   text_bytes, " bytes");
  }
  if (part.num_tokens < 1 || part.num_tokens > bank.part_tokens) {
    return Invalid(part.num_tokens, " tokens; a part of this bank has 1 to ", bank.part_tokens);
  }
  const int32_t routing_chunks = ChunksOf(part.num_tokens, bank.routing_chunk_tokens);
  const int32_t content_chunks = ChunksOf(part.num_tokens, bank.content_chunk_tokens);
  if (part.routing_chunks != routing_chunks || part.content_chunks != content_chunks) {
    return Invalid(part.routing_chunks, " routing and ", part.content_chunks,
                   " content chunks; the bank makes ", routing_chunks, " and ", content_chunks,
                   " of ", part.num_tokens, " tokens");
  }
  if (part.layers.size() != bank.router_layers.size()) {
    return Invalid(part.layers.size(), " layers; the bank has ", bank.router_layers.size());
  }
  return absl::OkStatus();
}

absl::Status WithContext(const absl::Status& status, const std::string& context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), StrCat(context, ": ", status.message()));
}

absl::Status CheckPart(const rpc::BankSpec& bank, const rpc::EncodedPart& part, size_t text_bytes) {
  const std::string context = StrCat("part with reference ", part.reference);
  MSA_RETURN_IF_ERROR(WithContext(CheckPartShape(bank, part, text_bytes), context));
  for (size_t i = 0; i < part.layers.size(); ++i) {
    MSA_RETURN_IF_ERROR(WithContext(CheckLayer(bank, part, part.layers[i]),
                                    StrCat(context, ", layer ", bank.router_layers[i])));
  }
  return absl::OkStatus();
}

absl::Status CheckText(const rpc::NewDocument& document) {
  if (document.id.empty() || document.id.size() > kMaxDocumentIdBytes) {
    return Invalid("document id of ", document.id.size(), " bytes; 1 to ", kMaxDocumentIdBytes,
                   " are allowed");
  }
  if (!IsUtf8(document.id) || HasControlCharacter(document.id)) {
    return Invalid("document id is not UTF-8 without control characters");
  }
  MSA_RETURN_IF_ERROR(CheckSize("title", document.title.size(), kMaxDocumentTitleBytes));
  MSA_RETURN_IF_ERROR(CheckSize("metadata", document.metadata.size(), kMaxDocumentMetadataBytes));
  return CheckSize("text", document.text.size(), kMaxDocumentTextBytes);
}

absl::Status CheckBelongs(const rpc::BankSpec& bank, const rpc::EncodedDocument& document) {
  if (document.bank_uid != bank.uid) {
    return absl::FailedPreconditionError(StrCat("bank '", bank.name,
                                                "' was made anew since the document was encoded; "
                                                "encode it for the new bank"));
  }
  if (document.model_fingerprint == bank.model_fingerprint) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("bank '", bank.name, "' holds blocks of model ", bank.model_fingerprint, " (",
             bank.model_name, "), the document was encoded by model ", document.model_fingerprint,
             ": use that model, or another bank"));
}

bool IsReduce(Reduce reduce, bool last_allowed) {
  return reduce == Reduce::kMean || reduce == Reduce::kMax ||
         (last_allowed && reduce == Reduce::kLast);
}

absl::Status CheckShape(const RoutingShape& shape) {
  const bool heads = shape.num_kv_heads >= 1 && shape.num_q_heads >= shape.num_kv_heads &&
                     shape.num_q_heads <= kMaxHeads && shape.num_q_heads % shape.num_kv_heads == 0;
  if (!heads || shape.head_dim < 1 || shape.head_dim > kMaxHeadDim) {
    return Invalid("a bank cannot have ", shape.num_q_heads, " query heads, ", shape.num_kv_heads,
                   " key heads and head size ", shape.head_dim);
  }
  if (!IsReduce(shape.head, false) || !IsReduce(shape.query, true) ||
      !IsReduce(shape.chunk, false) || !std::isfinite(shape.scale)) {
    return Invalid("unknown score reduction or a scale that is not finite");
  }
  return absl::OkStatus();
}

absl::Status CheckLayers(const std::vector<int32_t>& layers) {
  if (layers.empty() || layers.size() > kMaxRouterLayers) {
    return Invalid(layers.size(), " router layers; 1 to ", kMaxRouterLayers, " are allowed");
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i] < 0 || (i > 0 && layers[i] <= layers[i - 1])) {
      return Invalid("router layers must ascend from 0 or more");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateBank(const rpc::BankSpec& spec) {
  if (spec.name.empty() || spec.name.size() > kMaxBankNameBytes || !IsUtf8(spec.name) ||
      HasControlCharacter(spec.name)) {
    return Invalid("a bank's name is 1 to ", kMaxBankNameBytes,
                   " bytes of UTF-8 without control characters");
  }
  if (spec.uid == 0 || spec.uid == UINT64_MAX) return Invalid("a bank needs a random uid");
  if (spec.model_fingerprint.empty() || spec.model_fingerprint.size() > kFingerprintBytes) {
    return Invalid("a model fingerprint has 1 to ", kFingerprintBytes, " bytes");
  }
  MSA_RETURN_IF_ERROR(CheckSize("model name", spec.model_name.size(), kMaxDocumentTitleBytes));
  MSA_RETURN_IF_ERROR(CheckLayers(spec.router_layers));
  MSA_RETURN_IF_ERROR(CheckShape(spec.routing));
  if (spec.routing_chunk_tokens < 1 || spec.content_chunk_tokens < 1 || spec.part_tokens < 1 ||
      spec.part_tokens > kMaxPartTokens) {
    return Invalid("chunk sizes must be positive and parts of 1 to ", kMaxPartTokens, " tokens");
  }
  if (!IsStored(spec.routing_dtype) || !IsStored(spec.content_dtype)) {
    return Invalid("banks are kept in f32, bf16, int8 or fp8");
  }
  return absl::OkStatus();
}

absl::Status ValidateDocument(const rpc::BankSpec& bank, const rpc::EncodedDocument& document) {
  MSA_RETURN_IF_ERROR(CheckBelongs(bank, document));
  MSA_RETURN_IF_ERROR(CheckText(document.document));
  if (document.parts.empty()) return Invalid("a document has at least one part");
  const size_t title_bytes = document.document.title.size();
  const size_t text_bytes = document.document.text.size() + (title_bytes > 0 ? title_bytes + 1 : 0);
  int64_t previous = -1;
  for (const rpc::EncodedPart& part : document.parts) {
    if (part.reference <= previous || part.reference > kMaxReference) {
      return Invalid("references must ascend within 0 to ", kMaxReference, "; ", part.reference,
                     " follows ", previous);
    }
    previous = part.reference;
    MSA_RETURN_IF_ERROR(CheckPart(bank, part, text_bytes));
  }
  return absl::OkStatus();
}

absl::Status ValidateCoarse(const rpc::BankSpec& bank, const rpc::CoarseState& state) {
  if (state.codes && !kernels::CanHaveCodes(bank.routing)) {
    return absl::FailedPreconditionError(StrCat(
        "keys of bank '", bank.name, "' cannot have codes: that takes scores of mean heads, ",
        "the largest chunk's, and keys of a multiple of 64 numbers, which these are not (",
        bank.routing.key_width(), " numbers)"));
  }
  if (state.on && !state.codes) return Invalid("coarse scans cannot be on without codes");
  if (state.candidates < (state.codes ? 1 : 0) || state.candidates > kMaxCandidates) {
    return Invalid("the number of candidates is ", state.candidates, "; 1 to ", kMaxCandidates,
                   " are allowed");
  }
  if (state.same < 0 || state.same > state.selections) {
    return Invalid(state.same, " of ", state.selections, " selections cannot have been the same");
  }
  return absl::OkStatus();
}

absl::Status ValidateQueries(const rpc::BankSpec& bank, const std::vector<float>& queries) {
  const size_t width = bank.routing.query_width();
  if (queries.empty() || queries.size() % width != 0) {
    return Invalid(queries.size(), " numbers are not whole queries of ", width);
  }
  if (queries.size() / width > kMaxQueryTokens) {
    return Invalid(queries.size() / width, " query tokens; at most ", kMaxQueryTokens,
                   " are allowed");
  }
  const auto* bytes = reinterpret_cast<const char*>(queries.data());
  if (AnyNotFinite<uint32_t>(bytes, queries.size(), 0x7F800000)) {
    return Invalid("a routing query holds a number that is not finite");
  }
  return absl::OkStatus();
}

uint32_t PutDigest(const rpc::EncodedDocument& document) {
  uint32_t crc = 0;
  const auto add = [&crc](const auto& value) {
    crc = Crc32c({reinterpret_cast<const char*>(&value), sizeof(value)}, crc);
  };
  const rpc::NewDocument& text = document.document;
  for (const std::string* field : {&text.id, &text.title, &text.text, &text.metadata}) {
    add(field->size());
    crc = Crc32c(*field, crc);
  }
  for (const rpc::EncodedPart& part : document.parts) {
    add(part.reference);
    add(part.span);
    add(part.num_tokens);
    for (const rpc::EncodedLayer& layer : part.layers) {
      add(layer.routing_crc32c);
      add(layer.content_crc32c);
    }
  }
  return crc;
}

}  // namespace msa::memory_node

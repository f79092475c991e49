#include "router/validate.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"

namespace msa::router {
namespace {

absl::Status Invalid(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status CheckUtf8(const char* what, const std::string& text) {
  const std::optional<size_t> bad = FirstInvalidUtf8(text);
  if (!bad) return absl::OkStatus();
  return Invalid(StrCat(what, " is not valid UTF-8 at byte ", *bad));
}

// C0, DEL and C1; `text` is UTF-8.
absl::Status CheckNoControls(const char* what, const std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1 =
        byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (byte < 0x20 || byte == 0x7F || c1) {
      return Invalid(StrCat(what, " has a control character at byte ", i));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckName(const char* what, const std::string& name, size_t limit) {
  if (name.empty()) return Invalid(StrCat(what, " is empty"));
  MSA_RETURN_IF_ERROR(CheckSize(what, name.size(), limit));
  MSA_RETURN_IF_ERROR(CheckUtf8(what, name));
  return CheckNoControls(what, name);
}

// Without building the value: metadata may be nested as deep as its size allows.
absl::Status CheckMetadata(const std::string& metadata) {
  if (metadata.empty()) return absl::OkStatus();
  MSA_RETURN_IF_ERROR(CheckSize("the metadata", metadata.size(), kMaxDocumentMetadataBytes));
  MSA_RETURN_IF_ERROR(CheckUtf8("the metadata", metadata));
  const size_t first = metadata.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && metadata[first] == '{' && nlohmann::json::accept(metadata)) {
    return absl::OkStatus();
  }
  return Invalid("the metadata is not a JSON object");
}

absl::Status CheckQuestion(const std::string& question) {
  if (question.find_first_not_of(" \t\r\n") == std::string::npos) {
    return Invalid("the question is empty");
  }
  MSA_RETURN_IF_ERROR(CheckSize("the question", question.size(), kMaxQuestionBytes));
  return CheckUtf8("the question", question);
}

absl::Status CheckRange(const char* what, int32_t value, int32_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return Invalid(StrCat(what, " is ", value, ": use 1 to ", limit));
}

absl::Status CheckRange(const char* what, const std::optional<int32_t>& value, int32_t limit) {
  return value ? CheckRange(what, *value, limit) : absl::OkStatus();
}

}  // namespace

absl::Status CheckBankName(const std::string& name) {
  return CheckName("the bank's name", name, kMaxBankNameBytes);
}

absl::Status CheckBankOptions(const rpc::BankOptions& options) {
  MSA_RETURN_IF_ERROR(
      CheckRange("routing_chunk_tokens", options.routing_chunk_tokens, kMaxPartTokens));
  MSA_RETURN_IF_ERROR(
      CheckRange("content_chunk_tokens", options.content_chunk_tokens, kMaxPartTokens));
  return CheckRange("part_tokens", options.part_tokens, kMaxPartTokens);
}

absl::Status CheckDocumentId(const std::string& id) {
  return CheckName("the document's id", id, kMaxDocumentIdBytes);
}

absl::Status CheckDocument(const rpc::NewDocument& document) {
  MSA_RETURN_IF_ERROR(CheckDocumentId(document.id));
  MSA_RETURN_IF_ERROR(CheckSize("the title", document.title.size(), kMaxDocumentTitleBytes));
  MSA_RETURN_IF_ERROR(CheckUtf8("the title", document.title));
  MSA_RETURN_IF_ERROR(CheckSize("the text", document.text.size(), kMaxDocumentTextBytes));
  MSA_RETURN_IF_ERROR(CheckUtf8("the text", document.text));
  return CheckMetadata(document.metadata);
}

absl::Status CheckRequest(const rpc::GenerateRequest& request) {
  MSA_RETURN_IF_ERROR(CheckBankName(request.bank));
  MSA_RETURN_IF_ERROR(CheckQuestion(request.question));
  if (request.mode && *request.mode != "generative" && *request.mode != "router") {
    return Invalid(StrCat("the mode is '", *request.mode, "': use generative or router"));
  }
  MSA_RETURN_IF_ERROR(CheckRange("top_k", request.top_k, kMaxTopK));
  MSA_RETURN_IF_ERROR(CheckRange("reader_documents", request.reader_documents, kMaxTopK));
  MSA_RETURN_IF_ERROR(CheckRange("max_rounds", request.max_rounds, kMaxRounds));
  MSA_RETURN_IF_ERROR(CheckRange("max_new_tokens", request.max_new_tokens, kMaxNewTokens));
  if (!std::isfinite(request.temperature) || request.temperature < 0) {
    return Invalid("the temperature must be a finite number, 0 or more");
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const rpc::RetrieveRequest& request) {
  MSA_RETURN_IF_ERROR(CheckBankName(request.bank));
  MSA_RETURN_IF_ERROR(CheckQuestion(request.question));
  MSA_RETURN_IF_ERROR(CheckRange("limit", request.limit, kMaxRankLimit));
  MSA_RETURN_IF_ERROR(CheckRange("top_k", request.top_k, kMaxTopK));
  return CheckRange("max_rounds", request.max_rounds, kMaxRounds);
}

}  // namespace msa::router

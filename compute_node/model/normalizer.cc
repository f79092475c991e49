#include "compute_node/model/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/edits.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "common/check.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "compute_node/model/json_fields.h"

namespace msa::compute_node {
namespace {

constexpr int kMaxDepth = 16;

// NFC as Hugging Face tokenizers computes it: with the tables of Unicode 9, to which every later
// character is inert. Never freed: threads may outlive the end of main.
const icu::Normalizer2& Nfc() {
  static const icu::Normalizer2* const kNfc = [] {
    UErrorCode error = U_ZERO_ERROR;
    const icu::Normalizer2* current = icu::Normalizer2::getNFCInstance(error);
    auto* known = new icu::UnicodeSet(UNICODE_STRING_SIMPLE("[[:age=9.0:][:Cn:]]"), error);
    MSA_CHECK(U_SUCCESS(error));  // ICU's own data is missing: a broken installation
    known->freeze();
    return new icu::FilteredNormalizer2(*current, *known);
  }();
  return *kNfc;
}

icu::StringPiece ToPiece(std::string_view text) {
  return {text.data(), static_cast<int32_t>(text.size())};
}

// Whether any character is to be normalised, so that the common null normalizer costs nothing.
absl::StatusOr<bool> ParseNfc(const nlohmann::json& config, int depth) {
  if (config.is_null()) return false;
  MSA_ASSIGN_OR_RETURN(const std::string type, StringField(config, "type", "", "normalizer"));
  if (depth > kMaxDepth) return absl::InvalidArgumentError("normalizer is nested too deeply");
  if (type == "NFC") return true;
  const nlohmann::json& parts = Field(config, "normalizers");
  if (type != "Sequence" || !parts.is_array()) {
    return absl::InvalidArgumentError(StrCat(
        "normalizer type '", type, "' is not supported; supported are NFC and Sequence of it"));
  }
  bool nfc = false;
  for (const nlohmann::json& part : parts) {
    MSA_ASSIGN_OR_RETURN(const bool part_is_nfc, ParseNfc(part, depth + 1));
    nfc = nfc || part_is_nfc;
  }
  return nfc;
}

absl::Status CheckCombiningRuns(std::string_view text) {
  size_t run = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = NextUtf8(text.substr(at));
    const bool combines =
        next.code_point >= 0x300 && Nfc().getCombiningClass(static_cast<UChar32>(next.code_point));
    run = combines ? run + 1 : 0;
    if (run > Normalizer::kMaxCombiningRun) {
      return absl::InvalidArgumentError(StrCat("more than ", Normalizer::kMaxCombiningRun,
                                               " combining marks in a row at byte ", at));
    }
    at += next.size;
  }
  return absl::OkStatus();
}

void FillMap(const icu::Edits& edits, OffsetMap* map) {
  UErrorCode error = U_ZERO_ERROR;
  icu::Edits::Iterator it = edits.getFineIterator();
  while (it.next(error)) {
    const auto begin = static_cast<size_t>(it.destinationIndex());
    const auto source = static_cast<size_t>(it.sourceIndex());
    map->Add({{begin, begin + static_cast<size_t>(it.newLength())},
              {source, source + static_cast<size_t>(it.oldLength())},
              static_cast<bool>(it.hasChange())});
  }
}

}  // namespace

const OffsetMap::Stretch& OffsetMap::Find(size_t normalized_byte) const {
  const auto after = std::upper_bound(
      stretches_.begin(), stretches_.end(), normalized_byte,
      [](size_t byte, const Stretch& stretch) { return byte < stretch.normalized.begin; });
  return *(after == stretches_.begin() ? after : after - 1);
}

ByteRange OffsetMap::ToSource(ByteRange normalized) const {
  if (stretches_.empty()) return normalized;
  const Stretch& first = Find(normalized.begin);
  const Stretch& last = normalized.empty() ? first : Find(normalized.end - 1);
  ByteRange source = {first.source.begin, last.source.end};
  if (!first.changed) source.begin += normalized.begin - first.normalized.begin;
  if (!last.changed) source.end = last.source.begin + (normalized.end - last.normalized.begin);
  return source;
}

absl::StatusOr<Normalizer> Normalizer::Create(const nlohmann::json& config) {
  MSA_ASSIGN_OR_RETURN(const bool nfc, ParseNfc(config, 0));
  return Normalizer(nfc);
}

bool Normalizer::Changes(std::string_view text) const {
  if (!nfc_) return false;
  UErrorCode error = U_ZERO_ERROR;
  return !Nfc().isNormalizedUTF8(ToPiece(text), error);
}

absl::Status Normalizer::Normalize(std::string_view text, std::string* out, OffsetMap* map) const {
  if (!nfc_) {
    out->append(text);
    return absl::OkStatus();
  }
  MSA_RETURN_IF_ERROR(CheckCombiningRuns(text));
  UErrorCode error = U_ZERO_ERROR;
  icu::Edits edits;
  icu::StringByteSink<std::string> sink(out);
  Nfc().normalizeUTF8(0, ToPiece(text), sink, &edits, error);
  if (U_FAILURE(error)) {
    return absl::ResourceExhaustedError(StrCat("normalising text: ", u_errorName(error)));
  }
  FillMap(edits, map);
  return absl::OkStatus();
}

}  // namespace msa::compute_node

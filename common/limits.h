// Limits on everything a client can size. Each is stated where it is refused, in the same words.
#ifndef MSA_COMMON_LIMITS_H_
#define MSA_COMMON_LIMITS_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"

namespace msa {

inline constexpr size_t kMaxDocumentIdBytes = 512;
inline constexpr size_t kMaxBankNameBytes = 128;
inline constexpr size_t kMaxDocumentTextBytes = 32u << 20;  // 32 MiB: a long book
inline constexpr size_t kMaxDocumentMetadataBytes = 64u << 10;
inline constexpr size_t kMaxDocumentTitleBytes = 4u << 10;
inline constexpr size_t kMaxQuestionBytes = 64u << 10;
inline constexpr int32_t kMaxTopK = 1024;
inline constexpr int32_t kMaxCandidates = 512;  // of a coarse scan
inline constexpr int32_t kMaxRankLimit = 10000;
inline constexpr int32_t kMaxPageSize = 1000;
inline constexpr size_t kMaxIdsPerShardDelete = 256;  // a router splits longer lists
inline constexpr int32_t kMaxRounds = 32;
inline constexpr int32_t kMaxNewTokens = 8192;
inline constexpr int32_t kMaxQueryTokens = 16384;  // routing rows in one Route call
inline constexpr int32_t kMaxPartTokens = 32768;
inline constexpr int64_t kMaxReferencesTaken = 32 << 20;  // at once: a document's parts have a byte
inline constexpr int64_t kMaxReference = int64_t{1} << 62;  // as many are left for later ones
inline constexpr int32_t kMaxDocumentsPerStream = 10'000'000;
inline constexpr size_t kMaxRpcMessageBytes = 64u << 20;

// INVALID_ARGUMENT when `what` ("the title") has more than `limit` bytes.
absl::Status CheckSize(std::string_view what, size_t bytes, size_t limit);

}  // namespace msa

#endif  // MSA_COMMON_LIMITS_H_

// Whole files: configuration, certificates, tokenizers, a document.
#ifndef MSA_COMMON_FILE_H_
#define MSA_COMMON_FILE_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace msa {

// All that `path` holds, a pipe too. Every error names the path: NOT_FOUND, PERMISSION_DENIED,
// INVALID_ARGUMENT for a folder, RESOURCE_EXHAUSTED for more than `max_bytes`, of which no more is
// read, DATA_LOSS where a disk fails.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);
// The same of one that was opened as `path`, for those who look at it first; it stays open.
absl::StatusOr<std::string> ReadOpenFile(int file, const std::string& path, size_t max_bytes);

}  // namespace msa

#endif  // MSA_COMMON_FILE_H_

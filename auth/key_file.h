// The file of a server's API keys. Its form is in docs/operations.md:
//   {"version": 1, "keys": [{"name": "ana", "sha256": "<64 hexadecimal digits>",
//                            "rights": [{"bank": "notes", "right": "write"}]}]}
#ifndef MSA_AUTH_KEY_FILE_H_
#define MSA_AUTH_KEY_FILE_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "auth/api_key.h"

namespace msa::auth {

inline constexpr size_t kMaxApiKeys = 4096;
inline constexpr size_t kMaxGrants = 256;            // of a key
inline constexpr size_t kMaxKeyFileBytes = 8 << 20;  // more than that many keys take

// INVALID_ARGUMENT that names the entry: unknown, missing and repeated fields, names and hashes
// used twice, more than the limits. No keys at all is in order: nobody gets in.
absl::StatusOr<std::vector<ApiKey>> ParseKeys(std::string_view json);
std::string FormatKeys(const std::vector<ApiKey>& keys);

// What the file holds. NOT_FOUND for none; FAILED_PRECONDITION for one that others than its owner
// may write, or that is no file.
absl::StatusOr<std::string> ReadKeyText(const std::string& path);
// ParseKeys of what was read there: its errors begin with the path, too.
absl::StatusOr<std::vector<ApiKey>> KeysIn(const std::string& path, std::string_view text);
// Both.
absl::StatusOr<std::vector<ApiKey>> ReadKeys(const std::string& path);

// Reads, has `change` change, and writes the file in one step, durably; a new file is its owner's
// alone, another keeps mode and owner. Those who change one at once wait for one another.
absl::Status ChangeKeys(const std::string& path,
                        const std::function<absl::Status(std::vector<ApiKey>*)>& change);

}  // namespace msa::auth

#endif  // MSA_AUTH_KEY_FILE_H_

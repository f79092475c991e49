// API keys: what they look like, and what one may do to which banks.
#ifndef MSA_AUTH_API_KEY_H_
#define MSA_AUTH_API_KEY_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace msa::auth {

// Each has those before it in it.
enum class Right { kRead, kWrite, kAdmin };
std::string_view RightName(Right right);  // "read", "write", "admin"
absl::StatusOr<Right> ParseRight(std::string_view name);

struct Grant {
  std::string bank;  // a bank's name; one that ends with '*': all banks whose names begin so
  Right right = Right::kRead;
};

// One key, as it is kept: its hash is 32 bytes, the key itself is not there.
struct ApiKey {
  std::string name;
  std::string sha256;
  std::vector<Grant> grants;

  bool May(Right right, std::string_view bank) const;
  // On every bank that there is or may be: a grant of "*".
  bool MayEverywhere(Right right) const;
};

// A new one: "msa_" and 64 hexadecimal digits, 256 random bits of OpenSSL's.
absl::StatusOr<std::string> NewSecret();
// INVALID_ARGUMENT for what does not look like one; never says what was given.
absl::Status CheckSecret(std::string_view secret);
// 32 bytes.
std::string Sha256(std::string_view text);

}  // namespace msa::auth

#endif  // MSA_AUTH_API_KEY_H_

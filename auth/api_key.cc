#include "auth/api_key.h"

#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>

#include "absl/strings/escaping.h"
#include "common/strings.h"

namespace msa::auth {
namespace {

constexpr std::array<std::string_view, 3> kRightNames = {"read", "write", "admin"};
constexpr std::string_view kSecretPrefix = "msa_";
constexpr size_t kSecretBytes = 32;

bool Covers(const Grant& grant, std::string_view bank) {
  std::string_view pattern = grant.bank;
  if (!pattern.ends_with('*')) return bank == pattern;
  pattern.remove_suffix(1);
  return bank.starts_with(pattern);
}

}  // namespace

std::string_view RightName(Right right) { return kRightNames[static_cast<size_t>(right)]; }

absl::StatusOr<Right> ParseRight(std::string_view name) {
  for (size_t i = 0; i < kRightNames.size(); ++i) {
    if (name == kRightNames[i]) return static_cast<Right>(i);
  }
  return absl::InvalidArgumentError(
      StrCat("'", name.substr(0, 80), "' is no right: use read, write or admin"));
}

bool ApiKey::May(Right right, std::string_view bank) const {
  return std::any_of(grants.begin(), grants.end(), [&](const Grant& grant) {
    return grant.right >= right && Covers(grant, bank);
  });
}

bool ApiKey::MayEverywhere(Right right) const {
  return std::any_of(grants.begin(), grants.end(),
                     [&](const Grant& grant) { return grant.right >= right && grant.bank == "*"; });
}

absl::StatusOr<std::string> NewSecret() {
  std::string bytes(kSecretBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), kSecretBytes) != 1) {
    return absl::InternalError("OpenSSL has no random numbers for a key: try again");
  }
  return StrCat(kSecretPrefix, absl::BytesToHexString(bytes));
}

absl::Status CheckSecret(std::string_view secret) {
  if (secret.starts_with(kSecretPrefix) &&
      secret.size() == kSecretPrefix.size() + 2 * kSecretBytes &&
      secret.find_first_not_of("0123456789abcdef", kSecretPrefix.size()) ==
          std::string_view::npos) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "this is no API key: one is msa_ and 64 hexadecimal digits, as msa key create printed it");
}

std::string Sha256(std::string_view text) {
  std::string hash(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(hash.data()));
  return hash;
}

}  // namespace msa::auth

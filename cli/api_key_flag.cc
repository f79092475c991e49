#include "cli/api_key_flag.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/ascii.h"
#include "auth/api_key.h"
#include "cli/exit_code.h"
#include "common/file.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;  // far more than a key has

}  // namespace

void ApiKeyFlag::AddFlags(FlagSet& flags) {
  flags.Add("--api-key-file", &file,
            "File that holds the API key to show the server; without it MSA_API_KEY is the key");
}

absl::StatusOr<std::string> ApiKeyFlag::Read() const {
  std::string key, from = "MSA_API_KEY";
  if (!file.empty()) {
    from = StrCat("--api-key-file ", file);
    absl::StatusOr<std::string> text = ReadFile(file, kMaxFileBytes);
    if (!text.ok() || text->empty()) {
      return absl::NotFoundError(StrCat(from, ": cannot be read, or is empty"));
    }
    key = *std::move(text);
  } else if (const char* given = std::getenv("MSA_API_KEY"); given != nullptr) {
    key = given;
  }
  absl::StripAsciiWhitespace(&key);
  if (key.empty() && file.empty()) return key;
  const absl::Status form = auth::CheckSecret(key);
  if (!form.ok()) return UsageError(StrCat(from, ": ", std::string(form.message())));
  return key;
}

}  // namespace msa::cli

#include "cli/api_key_flag.h"

#include <cstdlib>
#include <fstream>

#include "absl/strings/ascii.h"
#include "auth/api_key.h"
#include "cli/exit_code.h"
#include "common/strings.h"

namespace msa::cli {

void ApiKeyFlag::AddFlags(FlagSet& flags) {
  flags.Add("--api-key-file", &file,
            "File that holds the API key to show the server; without it MSA_API_KEY is the key");
}

absl::StatusOr<std::string> ApiKeyFlag::Read() const {
  std::string key, from = "MSA_API_KEY";
  if (!file.empty()) {
    from = StrCat("--api-key-file ", file);
    std::ifstream in(file, std::ios::binary);
    if (!in || !std::getline(in, key, '\0')) {
      return absl::NotFoundError(StrCat(from, ": cannot be read, or is empty"));
    }
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

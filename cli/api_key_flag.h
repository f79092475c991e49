// --api-key-file, of those who call a server that has API keys. No flag takes a key itself: command
// lines are seen by every user of a machine, and kept by shells.
#ifndef MSA_CLI_API_KEY_FLAG_H_
#define MSA_CLI_API_KEY_FLAG_H_

#include <string>

#include "absl/status/statusor.h"
#include "cli/flags.h"

namespace msa::cli {

struct ApiKeyFlag {
  std::string file;

  void AddFlags(FlagSet& flags);
  // What the file holds, else MSA_API_KEY, else nothing. A usage error for what is no key,
  // NOT_FOUND for a file that cannot be read.
  absl::StatusOr<std::string> Read() const;
};

}  // namespace msa::cli

#endif  // MSA_CLI_API_KEY_FLAG_H_

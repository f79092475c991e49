#include "cli/exit_code.h"

#include "absl/strings/cord.h"
#include "common/strings.h"

namespace msa::cli {
namespace {
// Tells a usage error from the server's INVALID_ARGUMENT.
constexpr char kUsagePayload[] = "msa/usage";
}  // namespace

absl::Status UsageError(std::string_view message) {
  absl::Status status = absl::InvalidArgumentError(ToAbsl(message));
  status.SetPayload(kUsagePayload, absl::Cord("1"));
  return status;
}

int ExitCode(const absl::Status& status) {
  if (status.GetPayload(kUsagePayload).has_value()) return kExitUsage;
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kNotFound:
      return kExitNotFound;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kExitUnavailable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kOutOfRange:
      return kExitRefused;
    default:
      return kExitOther;
  }
}

std::string_view ExitCodeHelp() {
  return "Exit codes:\n"
         "  0  done\n"
         "  1  another failure; `verify`: an error past the tolerance\n"
         "  2  the command line is wrong\n"
         "  3  not found: a document, a bank, a file\n"
         "  4  the server, or a shard it needs, cannot be reached or did not answer in time\n"
         "  5  refused: a bad value, another model's bank, something that exists already\n"
         "Flags have environment variables: --data-dir is MSA_DATA_DIR, --server MSA_SERVER.\n";
}

}  // namespace msa::cli

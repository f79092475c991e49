// What the process ends with, so that scripts can tell failures apart.
#ifndef MSA_CLI_EXIT_CODE_H_
#define MSA_CLI_EXIT_CODE_H_

#include <string_view>

#include "absl/status/status.h"

namespace msa::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitOther = 1;  // and what `verify` finds past its tolerance
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotFound = 3;
inline constexpr int kExitUnavailable = 4;  // UNAVAILABLE, DEADLINE_EXCEEDED
// INVALID_ARGUMENT, FAILED_PRECONDITION, ALREADY_EXISTS, OUT_OF_RANGE
inline constexpr int kExitRefused = 5;

// A command line that asks for something that does not exist or does not fit together.
absl::Status UsageError(std::string_view message);

// kExitUsage for what UsageError made, whatever its code; kExitOther for codes named above at no
// constant: RESOURCE_EXHAUSTED, DATA_LOSS, PERMISSION_DENIED and the like.
int ExitCode(const absl::Status& status);

// The lines of --help that say the above.
std::string_view ExitCodeHelp();

}  // namespace msa::cli

#endif  // MSA_CLI_EXIT_CODE_H_

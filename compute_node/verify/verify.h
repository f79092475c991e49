// `msa verify`: runs a golden case through the whole engine and compares every tensor, id and text
// it holds. Formats: tests/golden/README.md.
#ifndef MSA_COMPUTE_NODE_VERIFY_VERIFY_H_
#define MSA_COMPUTE_NODE_VERIFY_VERIFY_H_

#include <string>

#include "absl/status/statusor.h"
#include "compute_node/verify/engine.h"
#include "compute_node/verify/report.h"

namespace msa::compute_node {

// The kind of case is found in input.json: "scenarios" (texts only), "scripts" (rounds), "adapter"
// (a real model with an adapter), else numeric. INVALID_ARGUMENT for a folder that holds none;
// NOT_FOUND for a missing file. A case that does not pass is a report, not an error.
absl::StatusOr<VerifyReport> RunVerify(const std::string& case_dir, const VerifyOptions& options);

// The kinds; one file each.
absl::Status VerifyNumeric(const GoldenCase& golden, const VerifyOptions& options,
                           VerifyReport& report);
absl::Status VerifyRounds(const GoldenCase& golden, const VerifyOptions& options,
                          VerifyReport& report);
absl::Status VerifyPrompts(const GoldenCase& golden, VerifyReport& report);
absl::Status VerifyAdapter(const GoldenCase& golden, const VerifyOptions& options,
                           VerifyReport& report);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_VERIFY_VERIFY_H_

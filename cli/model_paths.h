// Where a model and its adapter are found when the command line does not say.
#ifndef MSA_CLI_MODEL_PATHS_H_
#define MSA_CLI_MODEL_PATHS_H_

#include <string>

#include "absl/status/statusor.h"

namespace msa::cli {

// `given`, or models/smollm2-135m-instruct under the working folder or beside the build folder that
// holds this program. NOT_FOUND saying how to get one.
absl::StatusOr<std::string> FindModel(const std::string& given);

// The folder beside `model_dir` called as it with "-msa" after it, when it holds an adapter; where
// `model_dir` is a link, beside the link first, then beside what it leads to; then, in small
// letters, in the models/ where FindModel looks. Else empty.
std::string FindAdapter(const std::string& model_dir);

}  // namespace msa::cli

#endif  // MSA_CLI_MODEL_PATHS_H_

// What a command line that cannot be read is answered: the fault, what was probably meant, and
// where to read on.
#ifndef MSA_CLI_USAGE_H_
#define MSA_CLI_USAGE_H_

#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
class Error;
}  // namespace CLI

namespace msa::cli {

// Several lines, the last with an end of line. `app` has parsed as far as it could.
std::string Usage(const CLI::App* app, const CLI::Error& error);

// The candidate that `name` is probably a slip of: it has all words of `name` ("--k" of
// "--top-k"), or few letters differ. "" when none is near.
std::string Nearest(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace msa::cli

#endif  // MSA_CLI_USAGE_H_

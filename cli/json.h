// The JSON forms that scripts rely on. Scores are numbers, or null where nothing can be said.
#ifndef MSA_CLI_JSON_H_
#define MSA_CLI_JSON_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rpc/memory_service.h"

namespace msa::cli {

using Json = nlohmann::ordered_json;

// A line of a file of JSON lines. INVALID_ARGUMENT, saying what is wrong with "the line", when it
// is not UTF-8, no JSON, or nested so deep that Dump, which calls itself a level, would not end
// well.
absl::StatusOr<Json> ParseLine(const std::string& line);

// One line, without newline, whatever the reader takes for one. Broken UTF-8 is replaced.
std::string Dump(const Json& json);

Json ToJson(const absl::Status& status);  // {"code":"NOT_FOUND","message":…}
Json ToJson(const rpc::ByteSpan& span);   // [begin, end]: bytes of title, newline and text
Json ToJson(const rpc::RoutedDocument& document);
Json ToJson(const rpc::DocumentInfo& info);
Json ToJson(const rpc::BankSpec& spec);
Json ToJson(const rpc::ModelInfo& model);
Json ToJson(const rpc::ShardStats& stats);
Json ToJson(const rpc::CoarseState& state);
Json ToJson(const rpc::ScanComparison& comparison);  // times are means of a selection
Json ToJson(const rpc::Usage& usage);
Json ToJson(const rpc::Timings& timings);
// {"event":"routing"|"documents"|"text"|"done",…}
Json ToJson(const rpc::GenerateEvent& event);
Json ToJson(const rpc::RetrieveReply& reply);

}  // namespace msa::cli

#endif  // MSA_CLI_JSON_H_

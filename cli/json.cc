#include "cli/json.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <variant>

#include "absl/strings/str_replace.h"
#include "common/strings.h"
#include "common/utf8.h"

namespace msa::cli {
namespace {

template <typename T>
Json Array(const std::vector<T>& values) {
  Json array = Json::array();
  for (const T& value : values) array.push_back(ToJson(value));
  return array;
}

std::string_view ReduceName(Reduce reduce) {
  switch (reduce) {
    case Reduce::kMean:
      return "mean";
    case Reduce::kMax:
      return "max";
    case Reduce::kLast:
      return "last";
  }
  return "unknown";
}

constexpr int kMaxNesting = 1000;

bool NestedDeeper(std::string_view json, int most) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') in_string = !in_string;
    if (in_string) {
      if (c == '\\') ++i;
    } else if (c == '{' || c == '[') {
      if (++depth > most) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

Json EventJson(const rpc::RoutingEvent& event) {
  Json layers = Json::array();
  for (const rpc::LayerSelection& layer : event.layers) {
    Json parts = Json::array();
    for (const ScoredPart& part : layer.parts) {
      parts.push_back({{"reference", part.reference}, {"score", part.score}});
    }
    layers.push_back({{"layer", layer.layer}, {"parts", std::move(parts)}});
  }
  return {{"event", "routing"},
          {"round", event.round},
          {"documents", Array(event.documents)},
          {"layers", std::move(layers)},
          {"missing_shards", event.missing_shards}};
}

Json EventJson(const rpc::DocumentsLoadedEvent& event) {
  return {{"event", "documents"}, {"round", event.round}, {"documents", Array(event.documents)}};
}

Json EventJson(const rpc::TextEvent& event) {
  return {{"event", "text"}, {"text", event.text}, {"retrieval", event.retrieval}};
}

Json EventJson(const rpc::DoneEvent& event) {
  return {{"event", "done"},
          {"answer", event.answer},
          {"no_answer", event.no_answer},
          {"documents", Array(event.documents)},
          {"answered_from", event.answered_from},
          {"finish_reason", event.finish_reason},
          {"missing_shards", event.missing_shards},
          {"usage", ToJson(event.usage)},
          {"timings_ms", ToJson(event.timings)}};
}

}  // namespace

absl::StatusOr<Json> ParseLine(const std::string& line) {
  if (const std::optional<size_t> bad = FirstInvalidUtf8(line)) {
    return absl::InvalidArgumentError(StrCat("not valid UTF-8 at byte ", *bad, " of the line"));
  }
  if (NestedDeeper(line, kMaxNesting)) {
    return absl::InvalidArgumentError(
        StrCat("lists or objects are nested more than ", kMaxNesting, " deep"));
  }
  Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError("not JSON: one object a line is expected");
  }
  return json;
}

std::string Dump(const Json& json) {
  const std::string line = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  // Some readers end a line at these too (Python's splitlines): an object a line must survive them.
  return absl::StrReplaceAll(line,
                             {{"\u2028", "\\u2028"}, {"\u2029", "\\u2029"}, {"\u0085", "\\u0085"}});
}

Json ToJson(const absl::Status& status) {
  return {{"code", absl::StatusCodeToString(status.code())},
          {"message", std::string(status.message())}};
}

Json ToJson(const rpc::ByteSpan& span) { return Json::array({span.begin, span.end}); }

Json ToJson(const rpc::RoutedDocument& document) {
  return {{"id", document.document_id},     {"score", document.score},
          {"title", document.title},        {"part", document.part_index},
          {"span", ToJson(document.span)},  {"layer_votes", document.layer_votes},
          {"reference", document.reference}};
}

Json ToJson(const rpc::DocumentInfo& info) {
  Json parts = Json::array();
  for (const rpc::PartInfo& part : info.parts) {
    parts.push_back({{"reference", part.reference},
                     {"span", ToJson(part.span)},
                     {"tokens", part.num_tokens},
                     {"chunks", part.routing_chunks}});
  }
  Json json = {{"id", info.id},
               {"revision", info.revision},
               {"tokens", info.num_tokens()},
               {"chunks", info.num_chunks()},
               {"title", info.title},
               {"parts", std::move(parts)},
               {"bytes", info.text_bytes},
               {"added_unix_micros", info.added_unix_micros}};
  if (!info.metadata.empty()) {
    Json metadata = Json::parse(info.metadata, nullptr, /*allow_exceptions=*/false);
    json["metadata"] = metadata.is_discarded() ? Json(info.metadata) : std::move(metadata);
  }
  return json;
}

Json ToJson(const rpc::BankSpec& spec) {
  const auto weights =
      spec.weights_dtype ? Json(std::string(DTypeName(*spec.weights_dtype))) : Json();
  return {{"name", spec.name},
          {"model", spec.model_name},
          {"model_fingerprint", spec.model_fingerprint},
          {"router_layers", spec.router_layers},
          {"weights_precision", weights},
          {"routing_precision", std::string(DTypeName(spec.routing_dtype))},
          {"content_precision", std::string(DTypeName(spec.content_dtype))},
          {"routing_chunk_tokens", spec.routing_chunk_tokens},
          {"content_chunk_tokens", spec.content_chunk_tokens},
          {"part_tokens", spec.part_tokens},
          {"parse_special_tokens", spec.parse_special_tokens},
          {"reduce",
           {{"head", ReduceName(spec.routing.head)},
            {"query", ReduceName(spec.routing.query)},
            {"chunk", ReduceName(spec.routing.chunk)}}}};
}

Json ToJson(const rpc::ModelInfo& model) {
  Json bank = ToJson(model.default_bank);
  for (const char* key : {"name", "model", "model_fingerprint"}) bank.erase(key);
  return {{"name", model.name},
          {"fingerprint", model.fingerprint},
          {"retrieval_mode", model.retrieval_mode},
          {"has_trained_routers", model.has_trained_routers},
          {"default_bank", std::move(bank)}};
}

Json ToJson(const rpc::ShardStats& stats) {
  return {{"documents", stats.num_documents},
          {"parts", stats.num_parts},
          {"tokens", stats.num_tokens},
          {"chunks", stats.num_chunks},
          {"resident_key_bytes", stats.resident_key_bytes},
          {"disk_bytes", stats.disk_bytes},
          {"segments", stats.num_segments},
          {"dead_parts", stats.dead_parts},
          {"open_snapshots", stats.open_snapshots},
          {"corrupt_records", stats.corrupt_records},
          {"rounded_selections", stats.rounded_selections},
          {"rescanned_selections", stats.rescanned_selections},
          {"coarse_selections", stats.coarse_selections},
          {"code_bytes", stats.code_bytes},
          {"host_tier_bytes", stats.host_tier_bytes},
          {"coarse", ToJson(stats.coarse)}};
}

Json ToJson(const rpc::CoarseState& state) {
  return {{"codes", state.codes},           {"on", state.on},
          {"candidates", state.candidates}, {"top_k", state.top_k},
          {"selections", state.selections}, {"same", state.same},
          {"parts", state.num_parts}};
}

Json ToJson(const rpc::ScanComparison& comparison) {
  const double count = std::max<double>(1, comparison.selections);
  return {{"candidates", comparison.candidates},
          {"selections", comparison.selections},
          {"same", comparison.same},
          {"exact_ms", comparison.exact_ms / count},
          {"coarse_ms", comparison.coarse_ms / count}};
}

Json ToJson(const rpc::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"generated_tokens", usage.generated_tokens},
          {"rounds", usage.rounds},
          {"attended_chunks", usage.attended_chunks},
          {"fetched_bytes", usage.fetched_bytes},
          {"memory_parts", usage.memory_parts}};
}

Json ToJson(const rpc::Timings& timings) {
  return {{"total", timings.total},
          {"queue", timings.queue},
          {"prefill", timings.prefill},
          {"route", timings.route},
          {"fetch", timings.fetch},
          {"decode", timings.decode},
          {"tokenize", timings.tokenize},
          {"first_decode", timings.first_decode},
          {"first_token", timings.first_token}};
}

Json ToJson(const rpc::GenerateEvent& event) {
  return std::visit([](const auto& e) { return EventJson(e); }, event);
}

Json ToJson(const rpc::RetrieveReply& reply) {
  return {{"documents", Array(reply.documents)},
          {"missing_shards", reply.missing_shards},
          {"timings_ms", ToJson(reply.timings)}};
}

}  // namespace msa::cli

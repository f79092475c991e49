// The messages of compute_node.proto.
#include <type_traits>
#include <utility>
#include <variant>

#include "common/status_macros.h"
#include "rpc/convert.h"

namespace msa::rpc {
namespace {

template <class Repeated>
void AddStrings(const std::vector<std::string>& in, Repeated* out) {
  for (const std::string& item : in) *out->Add() = item;
}

void ToProto(const RoutedDocument& in, pb::RoutedDocument* out) {
  out->set_reference(in.reference);
  out->set_document_id(in.document_id);
  out->set_title(in.title);
  out->set_part_index(in.part_index);
  rpc::ToProto(in.span, out->mutable_span());
  out->set_score(in.score);
  out->set_layer_votes(in.layer_votes);
}

RoutedDocument FromProto(const pb::RoutedDocument& in) {
  return {in.reference(), in.document_id(), in.title(), in.part_index(), rpc::FromProto(in.span()),
          in.score(),     in.layer_votes()};
}

template <class Repeated>
void AddDocuments(const std::vector<RoutedDocument>& in, Repeated* out) {
  for (const RoutedDocument& document : in) ToProto(document, out->Add());
}

template <class Repeated>
std::vector<RoutedDocument> TakeDocuments(const Repeated& in) {
  std::vector<RoutedDocument> out;
  out.reserve(in.size());
  for (const pb::RoutedDocument& document : in) out.push_back(FromProto(document));
  return out;
}

void ToProto(const Timings& in, pb::Timings* out) {
  out->set_total(in.total);
  out->set_queue(in.queue);
  out->set_prefill(in.prefill);
  out->set_route(in.route);
  out->set_fetch(in.fetch);
  out->set_decode(in.decode);
  out->set_first_token(in.first_token);
  out->set_tokenize(in.tokenize);
  out->set_first_decode(in.first_decode);
}

Timings FromProto(const pb::Timings& in) {
  return {in.total(),  in.queue(),       in.prefill(),  in.route(),       in.fetch(),
          in.decode(), in.first_token(), in.tokenize(), in.first_decode()};
}

void ToProto(const Usage& in, pb::Usage* out) {
  out->set_prompt_tokens(in.prompt_tokens);
  out->set_generated_tokens(in.generated_tokens);
  out->set_rounds(in.rounds);
  out->set_attended_chunks(in.attended_chunks);
  out->set_fetched_bytes(in.fetched_bytes);
  out->set_memory_parts(in.memory_parts);
}

Usage FromProto(const pb::Usage& in) {
  return {in.prompt_tokens(),   in.generated_tokens(), in.rounds(),
          in.attended_chunks(), in.fetched_bytes(),    in.memory_parts()};
}

void Put(const RoutingEvent& in, pb::GenerateEvent* event) {
  pb::RoutingEvent* out = event->mutable_routing();
  out->set_round(in.round);
  AddDocuments(in.documents, out->mutable_documents());
  for (const LayerSelection& layer : in.layers) {
    pb::LayerSelection* to = out->add_layers();
    to->set_layer(layer.layer);
    ToRepeated(layer.parts, to->mutable_parts());
  }
  AddStrings(in.missing_shards, out->mutable_missing_shards());
}

void Put(const DocumentsLoadedEvent& in, pb::GenerateEvent* event) {
  event->mutable_documents_loaded()->set_round(in.round);
  AddDocuments(in.documents, event->mutable_documents_loaded()->mutable_documents());
}

void Put(const TextEvent& in, pb::GenerateEvent* event) {
  event->mutable_text()->set_text(AsUtf8(in.text));
  event->mutable_text()->set_retrieval(in.retrieval);
}

void Put(const DoneEvent& in, pb::GenerateEvent* event) {
  pb::DoneEvent* out = event->mutable_done();
  out->set_answer(AsUtf8(in.answer));
  AddDocuments(in.documents, out->mutable_documents());
  out->set_finish_reason(in.finish_reason);
  AddStrings(in.missing_shards, out->mutable_missing_shards());
  ToProto(in.usage, out->mutable_usage());
  ToProto(in.timings, out->mutable_timings());
  out->set_no_answer(in.no_answer);
  out->mutable_answered_from()->Add(in.answered_from.begin(), in.answered_from.end());
}

RoutingEvent Take(const pb::RoutingEvent& in) {
  RoutingEvent out;
  out.round = in.round();
  out.documents = TakeDocuments(in.documents());
  for (const pb::LayerSelection& layer : in.layers()) {
    LayerSelection selection{.layer = layer.layer(), .parts = {}};
    for (const pb::ScoredPart& part : layer.parts()) {
      selection.parts.push_back(rpc::FromProto(part));
    }
    out.layers.push_back(std::move(selection));
  }
  out.missing_shards = ToVector<std::string>(in.missing_shards());
  return out;
}

DoneEvent Take(const pb::DoneEvent& in) {
  return {in.answer(),           TakeDocuments(in.documents()),
          in.finish_reason(),    ToVector<std::string>(in.missing_shards()),
          FromProto(in.usage()), FromProto(in.timings()),
          in.no_answer(),        ToVector<int64_t>(in.answered_from())};
}

}  // namespace

void ToProto(const ModelInfo& in, pb::InfoReply* out) {
  out->set_fingerprint(in.fingerprint);
  out->set_name(in.name);
  ToProto(in.default_bank, out->mutable_default_bank());
  out->set_has_trained_routers(in.has_trained_routers);
  out->set_retrieval_mode(in.retrieval_mode);
}

absl::StatusOr<ModelInfo> FromProto(const pb::InfoReply& in) {
  ModelInfo out;
  out.fingerprint = in.fingerprint();
  out.name = in.name();
  MSA_ASSIGN_OR_RETURN(out.default_bank, FromProto(in.default_bank()));
  out.has_trained_routers = in.has_trained_routers();
  out.retrieval_mode = in.retrieval_mode();
  return out;
}

void ToProto(const GenerateRequest& in, pb::GenerateRequest* out) {
  out->set_bank(in.bank);
  out->set_question(in.question);
  if (in.mode) out->set_mode(*in.mode);
  if (in.top_k) out->set_top_k(*in.top_k);
  if (in.reader_documents) out->set_reader_documents(*in.reader_documents);
  if (in.max_rounds) out->set_max_rounds(*in.max_rounds);
  if (in.max_new_tokens) out->set_max_new_tokens(*in.max_new_tokens);
  out->set_use_memory(in.use_memory);
  out->set_allow_partial(in.allow_partial);
  out->set_temperature(in.temperature);
  out->set_seed(in.seed);
  out->set_scan(ToProto(in.scan));
  out->set_read_together(in.read_together);
}

GenerateRequest FromProto(const pb::GenerateRequest& in) {
  GenerateRequest out;
  out.bank = in.bank();
  out.question = in.question();
  if (in.has_mode()) out.mode = in.mode();
  if (in.has_top_k()) out.top_k = in.top_k();
  if (in.has_reader_documents()) out.reader_documents = in.reader_documents();
  if (in.has_max_rounds()) out.max_rounds = in.max_rounds();
  if (in.has_max_new_tokens()) out.max_new_tokens = in.max_new_tokens();
  out.use_memory = !in.has_use_memory() || in.use_memory();
  out.allow_partial = in.allow_partial();
  out.temperature = in.temperature();
  out.seed = in.seed();
  out.scan = FromProto(in.scan());
  out.read_together = in.read_together();
  return out;
}

void ToProto(const RetrieveRequest& in, pb::RetrieveRequest* out) {
  out->set_bank(in.bank);
  out->set_question(in.question);
  out->set_limit(in.limit);
  if (in.top_k) out->set_top_k(*in.top_k);
  if (in.max_rounds) out->set_max_rounds(*in.max_rounds);
  out->set_allow_partial(in.allow_partial);
  out->set_scan(ToProto(in.scan));
  out->mutable_compare_candidates()->Assign(in.compare_candidates.begin(),
                                            in.compare_candidates.end());
}

RetrieveRequest FromProto(const pb::RetrieveRequest& in) {
  RetrieveRequest out;
  out.bank = in.bank();
  out.question = in.question();
  out.limit = in.limit();
  if (in.has_top_k()) out.top_k = in.top_k();
  if (in.has_max_rounds()) out.max_rounds = in.max_rounds();
  out.allow_partial = in.allow_partial();
  out.scan = FromProto(in.scan());
  out.compare_candidates = ToVector<int32_t>(in.compare_candidates());
  return out;
}

void ToProto(const RetrieveReply& in, pb::RetrieveReply* out) {
  AddDocuments(in.documents, out->mutable_documents());
  AddStrings(in.missing_shards, out->mutable_missing_shards());
  ToProto(in.timings, out->mutable_timings());
  ToRepeated(in.comparisons, out->mutable_comparisons());
}

RetrieveReply FromProto(const pb::RetrieveReply& in) {
  return {TakeDocuments(in.documents()), ToVector<std::string>(in.missing_shards()),
          FromProto(in.timings()), FromRepeated(in.comparisons())};
}

void ToProto(const GenerateEvent& in, pb::GenerateEvent* out) {
  std::visit([out](const auto& event) { Put(event, out); }, in);
}

bool FromProto(const pb::GenerateEvent& in, GenerateEvent* out) {
  switch (in.event_case()) {
    case pb::GenerateEvent::kRouting:
      *out = Take(in.routing());
      return true;
    case pb::GenerateEvent::kDocumentsLoaded:
      *out = DocumentsLoadedEvent{in.documents_loaded().round(),
                                  TakeDocuments(in.documents_loaded().documents())};
      return true;
    case pb::GenerateEvent::kText:
      *out = TextEvent{in.text().text(), in.text().retrieval()};
      return true;
    case pb::GenerateEvent::kDone:
      *out = Take(in.done());
      return true;
    default:
      return false;
  }
}

}  // namespace msa::rpc

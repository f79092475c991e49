#include "tests/support/fake_compute_node.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace msa::testing {
namespace {

std::string FloatBytes(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

}  // namespace

rpc::BankSpec TestBankSpec() {
  rpc::BankSpec spec;
  spec.model_fingerprint = "0123456789abcdef0123456789abcdef";
  spec.model_name = "fake";
  spec.router_layers = {3, 5};
  spec.routing = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 4};
  spec.routing_chunk_tokens = 64;
  spec.content_chunk_tokens = 64;
  spec.routing_dtype = DType::kFloat32;
  spec.content_dtype = DType::kFloat32;
  spec.part_tokens = 64;
  return spec;
}

FakeComputeNode::FakeComputeNode(std::vector<rpc::MemoryShard*> shards, rpc::SessionRouter* with)
    : router(with), shards_(std::move(shards)) {
  model.default_bank = TestBankSpec();
  model.fingerprint = model.default_bank.model_fingerprint;
  model.name = model.default_bank.model_name;
  model.retrieval_mode = "router";
}

std::vector<float> FakeComputeNode::Embed(const std::string& text, int32_t layer) const {
  std::vector<float> values(model.default_bank.routing.key_width());
  uint32_t state = 2166136261u + static_cast<uint32_t>(layer);
  for (unsigned char byte : text) state = (state ^ byte) * 16777619u;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    // Few distinct values, so that equal scores are common.
    value = static_cast<float>(static_cast<int>(state >> 29) - 4) / 4;
  }
  return values;
}

absl::StatusOr<rpc::ModelInfo> FakeComputeNode::Info(const rpc::CallContext& ctx) {
  if (before) MSA_RETURN_IF_ERROR(before("Info", ctx));
  return model;
}

absl::StatusOr<std::vector<rpc::ByteSpan>> FakeComputeNode::SplitDocument(
    const rpc::CallContext& ctx, const std::string& full_text, int32_t part_tokens) {
  if (before) MSA_RETURN_IF_ERROR(before("SplitDocument", ctx));
  std::vector<rpc::ByteSpan> parts;
  uint64_t at = 0;
  do {
    const uint64_t end = std::min<uint64_t>(at + part_tokens, full_text.size());
    parts.push_back({at, end});
    at = end;
  } while (at < full_text.size());
  return parts;
}

absl::StatusOr<rpc::PutResult> FakeComputeNode::EncodeDocument(const rpc::CallContext& ctx,
                                                               const rpc::EncodeRequest& request) {
  if (before) MSA_RETURN_IF_ERROR(before("EncodeDocument", ctx));
  rpc::EncodedDocument encoded;
  encoded.bank = request.bank.name;
  encoded.bank_uid = request.bank.uid;
  encoded.model_fingerprint = request.bank.model_fingerprint;
  encoded.document = request.document;
  const std::string text = request.document.FullText();
  for (size_t i = 0; i < request.parts.size(); ++i) {
    const rpc::ByteSpan span = request.parts[i];
    rpc::EncodedPart part;
    part.reference = request.first_reference + static_cast<int64_t>(i);
    part.span = span;
    part.num_tokens = static_cast<int32_t>(span.end - span.begin);
    part.routing_chunks = 1;
    part.content_chunks = 1;
    for (int32_t layer : request.bank.router_layers) {
      const std::string piece = text.substr(span.begin, span.end - span.begin);
      const rpc::Payload keys(FloatBytes(Embed(piece, layer)));
      part.layers.push_back({.routing = keys, .content = rpc::Payload(piece)});
    }
    encoded.parts.push_back(std::move(part));
  }
  return shards_.at(request.shard)->PutDocument(ctx, encoded);
}

absl::StatusOr<rpc::RoutingEvent> FakeComputeNode::RouteAll(
    const rpc::CallContext& ctx, const std::string& bank, const std::string& question,
    int32_t top_k, const rpc::SessionOptions& options,
    std::vector<rpc::ScanComparison>* comparisons) {
  MSA_ASSIGN_OR_RETURN(const rpc::SessionInfo session, router->OpenSession(ctx, bank, options));
  const auto route = [&]() -> absl::StatusOr<rpc::RoutingEvent> {
    rpc::RoutingEvent event;
    for (int32_t layer : session.bank.router_layers) {
      MSA_ASSIGN_OR_RETURN(
          const rpc::Selection selection,
          router->Route(ctx, session.session_id, 0, layer, top_k, Embed(question, layer)));
      rpc::LayerSelection& to = event.layers.emplace_back();
      to.layer = layer;
      for (const rpc::RoutedPart& part : selection.parts) to.parts.push_back(part.scored);
      event.missing_shards = selection.missing_shards;
      rpc::AddComparisons(selection.comparisons, comparisons);
    }
    rpc::RankRequest rank;
    rank.limit = top_k;
    rank.one_per_document = true;
    MSA_ASSIGN_OR_RETURN(const auto ranked, router->Rank(ctx, session.session_id, rank));
    std::vector<int64_t> references;
    for (const rpc::RankedPart& part : ranked) references.push_back(part.scored.reference);
    MSA_ASSIGN_OR_RETURN(const auto texts, router->GetParts(ctx, session.session_id, references));
    for (size_t i = 0; i < texts.size(); ++i) {
      event.documents.push_back({texts[i].reference, texts[i].document_id, texts[i].title,
                                 texts[i].part_index, texts[i].span, ranked[i].scored.score, 0});
    }
    return event;
  };
  absl::StatusOr<rpc::RoutingEvent> event = route();
  (void)router->CloseSession(ctx, session.session_id);
  return event;
}

absl::Status FakeComputeNode::Generate(const rpc::CallContext& ctx,
                                       const rpc::GenerateRequest& request,
                                       const rpc::EventSink& sink) {
  if (before) MSA_RETURN_IF_ERROR(before("Generate", ctx));
  std::vector<rpc::ScanComparison> comparisons;
  MSA_ASSIGN_OR_RETURN(const rpc::RoutingEvent event,
                       RouteAll(ctx, request.bank, request.question, request.top_k.value_or(4),
                                {request.allow_partial, request.scan, {}}, &comparisons));
  if (!sink(event)) return absl::CancelledError("the client is gone");
  if (midway) MSA_RETURN_IF_ERROR(midway(ctx));
  rpc::DoneEvent done;
  for (const rpc::RoutedDocument& document : event.documents) {
    absl::StrAppend(&done.answer, document.document_id, ";");
    if (!sink(rpc::TextEvent{document.document_id + ";", false})) {
      return absl::CancelledError("the client is gone");
    }
  }
  done.documents = event.documents;
  done.finish_reason = "stop";
  done.missing_shards = event.missing_shards;
  done.usage.rounds = 1;
  done.timings.total = 1.5;
  sink(done);
  return absl::OkStatus();
}

absl::StatusOr<rpc::RetrieveReply> FakeComputeNode::Retrieve(const rpc::CallContext& ctx,
                                                             const rpc::RetrieveRequest& request) {
  if (before) MSA_RETURN_IF_ERROR(before("Retrieve", ctx));
  rpc::RetrieveReply reply;
  MSA_ASSIGN_OR_RETURN(
      rpc::RoutingEvent event,
      RouteAll(ctx, request.bank, request.question, request.top_k.value_or(request.limit),
               {request.allow_partial, request.scan, request.compare_candidates},
               &reply.comparisons));
  reply.documents = std::move(event.documents);
  reply.missing_shards = std::move(event.missing_shards);
  return reply;
}

}  // namespace msa::testing

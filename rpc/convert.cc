#include "rpc/convert.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace msa::rpc {
namespace {

absl::StatusOr<DType> ToDType(pb::DType in) {
  switch (in) {
    case pb::DTYPE_FLOAT32:
    case pb::DTYPE_BFLOAT16:
    case pb::DTYPE_INT8:
    case pb::DTYPE_FLOAT16:
    case pb::DTYPE_FLOAT8:
      return static_cast<DType>(in);
    default:
      return absl::InvalidArgumentError(absl::StrCat("unknown precision number ", in));
  }
}

absl::StatusOr<Reduce> ToReduce(pb::Reduce in) {
  switch (in) {
    case pb::REDUCE_MEAN:
    case pb::REDUCE_MAX:
    case pb::REDUCE_LAST:
      return static_cast<Reduce>(in);
    default:
      return absl::InvalidArgumentError(absl::StrCat("unknown reduction number ", in));
  }
}

pb::DType FromDType(DType in) { return static_cast<pb::DType>(in); }
pb::Reduce FromReduce(Reduce in) { return static_cast<pb::Reduce>(in); }

absl::StatusOr<RoutingShape> ToShape(const pb::RoutingShape& in) {
  RoutingShape out;
  out.num_q_heads = in.num_q_heads();
  out.num_kv_heads = in.num_kv_heads();
  out.head_dim = in.head_dim();
  MSA_ASSIGN_OR_RETURN(out.head, ToReduce(in.head()));
  MSA_ASSIGN_OR_RETURN(out.query, ToReduce(in.query()));
  MSA_ASSIGN_OR_RETURN(out.chunk, ToReduce(in.chunk()));
  out.scale = in.scale();
  return out;
}

}  // namespace

std::string AsUtf8(const std::string& text) { return IsUtf8(text) ? text : absl::CHexEscape(text); }

void ToProto(const BankSpec& in, pb::BankSpec* out) {
  out->set_name(in.name);
  out->set_uid(in.uid);
  out->set_model_fingerprint(in.model_fingerprint);
  out->set_model_name(in.model_name);
  out->mutable_router_layers()->Assign(in.router_layers.begin(), in.router_layers.end());
  pb::RoutingShape* shape = out->mutable_routing();
  shape->set_num_q_heads(in.routing.num_q_heads);
  shape->set_num_kv_heads(in.routing.num_kv_heads);
  shape->set_head_dim(in.routing.head_dim);
  shape->set_head(FromReduce(in.routing.head));
  shape->set_query(FromReduce(in.routing.query));
  shape->set_chunk(FromReduce(in.routing.chunk));
  shape->set_scale(in.routing.scale);
  out->set_routing_chunk_tokens(in.routing_chunk_tokens);
  out->set_content_chunk_tokens(in.content_chunk_tokens);
  out->set_routing_dtype(FromDType(in.routing_dtype));
  out->set_content_dtype(FromDType(in.content_dtype));
  out->set_part_tokens(in.part_tokens);
  out->set_parse_special_tokens(in.parse_special_tokens);
  if (in.weights_dtype) out->set_weights_dtype(FromDType(*in.weights_dtype));
}

absl::StatusOr<BankSpec> FromProto(const pb::BankSpec& in) {
  BankSpec out;
  out.name = in.name();
  out.uid = in.uid();
  out.model_fingerprint = in.model_fingerprint();
  out.model_name = in.model_name();
  out.router_layers = ToVector<int32_t>(in.router_layers());
  MSA_ASSIGN_OR_RETURN(out.routing, ToShape(in.routing()));
  out.routing_chunk_tokens = in.routing_chunk_tokens();
  out.content_chunk_tokens = in.content_chunk_tokens();
  MSA_ASSIGN_OR_RETURN(out.routing_dtype, ToDType(in.routing_dtype()));
  MSA_ASSIGN_OR_RETURN(out.content_dtype, ToDType(in.content_dtype()));
  out.part_tokens = in.part_tokens();
  out.parse_special_tokens = in.parse_special_tokens();
  if (in.weights_dtype() != pb::DTYPE_UNSPECIFIED) {
    MSA_ASSIGN_OR_RETURN(out.weights_dtype, ToDType(in.weights_dtype()));
  }
  return out;
}

void ToProto(const ByteSpan& in, pb::ByteSpan* out) {
  out->set_begin(in.begin);
  out->set_end(in.end);
}
ByteSpan FromProto(const pb::ByteSpan& in) { return {in.begin(), in.end()}; }

void ToProto(const NewDocument& in, pb::Document* out) {
  out->set_id(in.id);
  out->set_title(in.title);
  out->set_text(in.text);
  out->set_metadata(in.metadata);
}
NewDocument FromProto(const pb::Document& in) {
  return {in.id(), in.title(), in.text(), in.metadata()};
}

void ToProto(const DocumentInfo& in, pb::DocumentInfo* out) {
  out->set_id(in.id);
  out->set_title(in.title);
  out->set_metadata(in.metadata);
  out->set_revision(in.revision);
  for (const PartInfo& part : in.parts) {
    pb::PartInfo* to = out->add_parts();
    to->set_reference(part.reference);
    ToProto(part.span, to->mutable_span());
    to->set_num_tokens(part.num_tokens);
    to->set_routing_chunks(part.routing_chunks);
  }
  out->set_text_bytes(in.text_bytes);
  out->set_added_unix_micros(in.added_unix_micros);
}

DocumentInfo FromProto(const pb::DocumentInfo& in) {
  DocumentInfo out;
  out.id = in.id();
  out.title = in.title();
  out.metadata = in.metadata();
  out.revision = in.revision();
  out.parts.reserve(in.parts_size());
  for (const pb::PartInfo& part : in.parts()) {
    out.parts.push_back({.reference = part.reference(),
                         .span = FromProto(part.span()),
                         .num_tokens = part.num_tokens(),
                         .routing_chunks = part.routing_chunks()});
  }
  out.text_bytes = in.text_bytes();
  out.added_unix_micros = in.added_unix_micros();
  return out;
}

void ToProto(const StoredDocument& in, pb::StoredDocument* out) {
  ToProto(in.info, out->mutable_info());
  out->set_full_text(in.full_text);
}
StoredDocument FromProto(const pb::StoredDocument& in) {
  return {FromProto(in.info()), in.full_text()};
}

void ToProto(const PutResult& in, pb::PutResult* out) {
  out->set_revision(in.revision);
  out->set_num_tokens(in.num_tokens);
  out->set_num_chunks(in.num_chunks);
  out->set_num_parts(in.num_parts);
}
PutResult FromProto(const pb::PutResult& in) {
  return {in.revision(), in.num_tokens(), in.num_chunks(), in.num_parts()};
}

void ToProto(const ScoredPart& in, pb::ScoredPart* out) {
  out->set_score(in.score);
  out->set_reference(in.reference);
}
ScoredPart FromProto(const pb::ScoredPart& in) { return {in.score(), in.reference()}; }

void ToProto(const RoutedPart& in, pb::RoutedPart* out) {
  out->set_score(in.scored.score);
  out->set_reference(in.scored.reference);
  out->set_shard(in.shard);
  out->set_content_chunks(in.content_chunks);
}
RoutedPart FromProto(const pb::RoutedPart& in) {
  return {{in.score(), in.reference()}, in.shard(), in.content_chunks()};
}

void ToProto(const RankedPart& in, pb::RankedPart* out) {
  out->set_score(in.scored.score);
  out->set_reference(in.scored.reference);
  out->set_shard(in.shard);
}
RankedPart FromProto(const pb::RankedPart& in) {
  return {{in.score(), in.reference()}, in.shard()};
}

void ToProto(const PartText& in, pb::PartText* out) {
  out->set_reference(in.reference);
  out->set_document_id(in.document_id);
  out->set_title(in.title);
  out->set_revision(in.revision);
  out->set_part_index(in.part_index);
  out->set_num_parts(in.num_parts);
  ToProto(in.span, out->mutable_span());
  out->set_text(in.text);
}
PartText FromProto(const pb::PartText& in) {
  return {in.reference(),  in.document_id(), in.title(),           in.revision(),
          in.part_index(), in.num_parts(),   FromProto(in.span()), in.text()};
}

void ToProto(const absl::Status& in, pb::ItemStatus* out) {
  if (in.ok()) return;
  out->set_code(static_cast<int>(in.code()));
  out->set_message(AsUtf8(std::string(in.message())));
}
absl::Status FromProto(const pb::ItemStatus& in) {
  return absl::Status(static_cast<absl::StatusCode>(in.code()), in.message());
}

void ToProto(const CoarseState& in, pb::CoarseState* out) {
  out->set_codes(in.codes);
  out->set_on(in.on);
  out->set_candidates(in.candidates);
  out->set_top_k(in.top_k);
  out->set_selections(in.selections);
  out->set_same(in.same);
  out->set_num_parts(in.num_parts);
  out->set_next_reference(in.next_reference);
}
CoarseState FromProto(const pb::CoarseState& in) {
  return {in.codes(),      in.on(),   in.candidates(), in.top_k(),
          in.selections(), in.same(), in.num_parts(),  in.next_reference()};
}

void ToProto(const ShardPlace& in, pb::ShardPlace* out) {
  out->set_shard(in.shard);
  out->set_shards(in.shards);
  out->set_slots(in.slots);
}
ShardPlace FromProto(const pb::ShardPlace& in) { return {in.shard(), in.shards(), in.slots()}; }

void ToProto(const ScanComparison& in, pb::ScanComparison* out) {
  out->set_candidates(in.candidates);
  out->set_selections(in.selections);
  out->set_same(in.same);
  out->set_exact_ms(in.exact_ms);
  out->set_coarse_ms(in.coarse_ms);
}
ScanComparison FromProto(const pb::ScanComparison& in) {
  return {in.candidates(), in.selections(), in.same(), in.exact_ms(), in.coarse_ms()};
}

pb::Scan ToProto(Scan in) { return static_cast<pb::Scan>(in); }
Scan FromProto(pb::Scan in) {
  return in == pb::SCAN_EXACT || in == pb::SCAN_COARSE ? static_cast<Scan>(in) : Scan::kDefault;
}

absl::Status CheckScan(pb::Scan in) {
  if (pb::Scan_IsValid(in)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("scan is ", static_cast<int>(in), ", which this version does not know: use ",
                   "SCAN_DEFAULT (0), SCAN_EXACT (1) or SCAN_COARSE (2)"));
}

void ToProto(const ShardStats& in, pb::ShardStats* out) {
  ToProto(in.spec, out->mutable_spec());
  out->set_num_documents(in.num_documents);
  out->set_num_parts(in.num_parts);
  out->set_num_tokens(in.num_tokens);
  out->set_num_chunks(in.num_chunks);
  out->set_resident_key_bytes(in.resident_key_bytes);
  out->set_disk_bytes(in.disk_bytes);
  out->set_num_segments(in.num_segments);
  out->set_dead_parts(in.dead_parts);
  out->set_open_snapshots(in.open_snapshots);
  out->set_corrupt_records(in.corrupt_records);
  out->set_rounded_selections(in.rounded_selections);
  out->set_rescanned_selections(in.rescanned_selections);
  out->set_coarse_selections(in.coarse_selections);
  out->set_code_bytes(in.code_bytes);
  out->set_host_tier_bytes(in.host_tier_bytes);
  ToProto(in.coarse, out->mutable_coarse());
  out->set_next_reference(in.next_reference);
}

absl::StatusOr<ShardStats> FromProto(const pb::ShardStats& in) {
  ShardStats out;
  MSA_ASSIGN_OR_RETURN(out.spec, FromProto(in.spec()));
  out.num_documents = in.num_documents();
  out.num_parts = in.num_parts();
  out.num_tokens = in.num_tokens();
  out.num_chunks = in.num_chunks();
  out.resident_key_bytes = in.resident_key_bytes();
  out.disk_bytes = in.disk_bytes();
  out.num_segments = in.num_segments();
  out.dead_parts = in.dead_parts();
  out.open_snapshots = in.open_snapshots();
  out.corrupt_records = in.corrupt_records();
  out.rounded_selections = in.rounded_selections();
  out.rescanned_selections = in.rescanned_selections();
  out.coarse_selections = in.coarse_selections();
  out.code_bytes = in.code_bytes();
  out.host_tier_bytes = in.host_tier_bytes();
  out.coarse = FromProto(in.coarse());
  out.next_reference = in.next_reference();
  return out;
}

void ToProto(const BankOptions& in, pb::BankOptions* out) {
  if (in.routing_dtype) out->set_routing_dtype(FromDType(*in.routing_dtype));
  if (in.content_dtype) out->set_content_dtype(FromDType(*in.content_dtype));
  if (in.routing_chunk_tokens) out->set_routing_chunk_tokens(*in.routing_chunk_tokens);
  if (in.content_chunk_tokens) out->set_content_chunk_tokens(*in.content_chunk_tokens);
  if (in.part_tokens) out->set_part_tokens(*in.part_tokens);
  if (in.parse_special_tokens) out->set_parse_special_tokens(*in.parse_special_tokens);
}

absl::StatusOr<BankOptions> FromProto(const pb::BankOptions& in) {
  BankOptions out;
  if (in.has_routing_dtype()) {
    MSA_ASSIGN_OR_RETURN(out.routing_dtype, ToDType(in.routing_dtype()));
  }
  if (in.has_content_dtype()) {
    MSA_ASSIGN_OR_RETURN(out.content_dtype, ToDType(in.content_dtype()));
  }
  if (in.has_routing_chunk_tokens()) out.routing_chunk_tokens = in.routing_chunk_tokens();
  if (in.has_content_chunk_tokens()) out.content_chunk_tokens = in.content_chunk_tokens();
  if (in.has_part_tokens()) out.part_tokens = in.part_tokens();
  if (in.has_parse_special_tokens()) out.parse_special_tokens = in.parse_special_tokens();
  return out;
}

}  // namespace msa::rpc

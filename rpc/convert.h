// Between plain values (rpc/types.h and the interfaces) and their messages (proto/msa/v1). Only
// rpc/*.cc includes this header: it drags protobuf in.
#ifndef MSA_RPC_CONVERT_H_
#define MSA_RPC_CONVERT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "msa/v1/common.pb.h"
#include "msa/v1/compute_node.pb.h"
#include "msa/v1/memory_node.pb.h"
#include "msa/v1/router.pb.h"
#include "rpc/compute_node.h"
#include "rpc/memory_service.h"
#include "rpc/memory_shard.h"
#include "rpc/session_router.h"
#include "rpc/shard_map.h"
#include "rpc/types.h"

namespace msa::rpc {

namespace pb = ::msa::v1;

void ToProto(const BankSpec& in, pb::BankSpec* out);
// INVALID_ARGUMENT for a precision or reduction that this version does not know.
absl::StatusOr<BankSpec> FromProto(const pb::BankSpec& in);

void ToProto(const ByteSpan& in, pb::ByteSpan* out);
ByteSpan FromProto(const pb::ByteSpan& in);
void ToProto(const NewDocument& in, pb::Document* out);
NewDocument FromProto(const pb::Document& in);
void ToProto(const DocumentInfo& in, pb::DocumentInfo* out);
DocumentInfo FromProto(const pb::DocumentInfo& in);
void ToProto(const StoredDocument& in, pb::StoredDocument* out);
StoredDocument FromProto(const pb::StoredDocument& in);
void ToProto(const PutResult& in, pb::PutResult* out);
PutResult FromProto(const pb::PutResult& in);
void ToProto(const ScoredPart& in, pb::ScoredPart* out);
ScoredPart FromProto(const pb::ScoredPart& in);
void ToProto(const RoutedPart& in, pb::RoutedPart* out);
RoutedPart FromProto(const pb::RoutedPart& in);
void ToProto(const RankedPart& in, pb::RankedPart* out);
RankedPart FromProto(const pb::RankedPart& in);
void ToProto(const PartText& in, pb::PartText* out);
PartText FromProto(const pb::PartText& in);
// Leaves `out` empty for OK.
void ToProto(const absl::Status& in, pb::ItemStatus* out);
absl::Status FromProto(const pb::ItemStatus& in);
void ToProto(const CoarseState& in, pb::CoarseState* out);
CoarseState FromProto(const pb::CoarseState& in);
void ToProto(const ShardPlace& in, pb::ShardPlace* out);
ShardPlace FromProto(const pb::ShardPlace& in);
void ToProto(const ScanComparison& in, pb::ScanComparison* out);
ScanComparison FromProto(const pb::ScanComparison& in);
pb::Scan ToProto(Scan in);
Scan FromProto(pb::Scan in);  // kDefault for one that this version does not know
// INVALID_ARGUMENT for such a one: requests that hold it are not answered as if they did not.
absl::Status CheckScan(pb::Scan in);
void ToProto(const ShardStats& in, pb::ShardStats* out);
absl::StatusOr<ShardStats> FromProto(const pb::ShardStats& in);
void ToProto(const BankOptions& in, pb::BankOptions* out);
absl::StatusOr<BankOptions> FromProto(const pb::BankOptions& in);

void ToProto(const ModelInfo& in, pb::InfoReply* out);
absl::StatusOr<ModelInfo> FromProto(const pb::InfoReply& in);
void ToProto(const GenerateRequest& in, pb::GenerateRequest* out);
GenerateRequest FromProto(const pb::GenerateRequest& in);
void ToProto(const RetrieveRequest& in, pb::RetrieveRequest* out);
RetrieveRequest FromProto(const pb::RetrieveRequest& in);
void ToProto(const RetrieveReply& in, pb::RetrieveReply* out);
RetrieveReply FromProto(const pb::RetrieveReply& in);
void ToProto(const GenerateEvent& in, pb::GenerateEvent* out);
// false: an event of a later version, to be skipped.
bool FromProto(const pb::GenerateEvent& in, GenerateEvent* out);

template <class Values, class Repeated>
void ToRepeated(const Values& values, Repeated* out) {
  out->Reserve(static_cast<int>(values.size()));
  for (const auto& value : values) ToProto(value, out->Add());
}

template <class Repeated>
auto FromRepeated(const Repeated& in) {
  std::vector<decltype(FromProto(in.Get(0)))> values;
  values.reserve(in.size());
  for (const auto& item : in) values.push_back(FromProto(item));
  return values;
}

template <class T, class Repeated>
std::vector<T> ToVector(const Repeated& in) {
  return std::vector<T>(in.begin(), in.end());
}

// `text` where it is UTF-8, else with its bytes escaped: proto `string` fields and status messages
// must not carry anything else.
std::string AsUtf8(const std::string& text);

}  // namespace msa::rpc

#endif  // MSA_RPC_CONVERT_H_

// Every field there and back; the .proto's enum numbers are those of the headers.
#include "rpc/convert.h"

#include <gtest/gtest.h>

#include <limits>

#include "rpc/wire.h"

namespace msa::rpc {
namespace {

BankSpec FullSpec() {
  BankSpec spec;
  spec.name = "b";
  spec.uid = 0xFEDCBA9876543210u;
  spec.model_fingerprint = "f";
  spec.model_name = "m";
  spec.router_layers = {1, 5, 9};
  spec.routing = {8, 4, 16, Reduce::kMax, Reduce::kLast, Reduce::kMean, 0.25f};
  spec.routing_chunk_tokens = 16;
  spec.content_chunk_tokens = 64;
  spec.routing_dtype = DType::kInt8;
  spec.content_dtype = DType::kFloat8;
  spec.part_tokens = 512;
  spec.parse_special_tokens = true;
  spec.weights_dtype = DType::kBFloat16;
  return spec;
}

TEST(Convert, BankSpecRoundTrip) {
  pb::BankSpec message;
  ToProto(FullSpec(), &message);
  EXPECT_EQ(*FromProto(message), FullSpec());
  message.clear_weights_dtype();
  EXPECT_FALSE(FromProto(message)->weights_dtype.has_value());
}

TEST(Convert, EnumNumbersAreTheStoredOnes) {
  EXPECT_EQ(static_cast<int>(DType::kFloat32), pb::DTYPE_FLOAT32);
  EXPECT_EQ(static_cast<int>(DType::kBFloat16), pb::DTYPE_BFLOAT16);
  EXPECT_EQ(static_cast<int>(DType::kInt8), pb::DTYPE_INT8);
  EXPECT_EQ(static_cast<int>(DType::kFloat16), pb::DTYPE_FLOAT16);
  EXPECT_EQ(static_cast<int>(DType::kFloat8), pb::DTYPE_FLOAT8);
  EXPECT_EQ(static_cast<int>(Reduce::kMean), pb::REDUCE_MEAN);
  EXPECT_EQ(static_cast<int>(Reduce::kMax), pb::REDUCE_MAX);
  EXPECT_EQ(static_cast<int>(Reduce::kLast), pb::REDUCE_LAST);
}

TEST(Convert, UnknownNumbersAreRefused) {
  pb::BankSpec message;
  ToProto(FullSpec(), &message);
  message.set_routing_dtype(static_cast<pb::DType>(77));
  EXPECT_EQ(FromProto(message).status().code(), absl::StatusCode::kInvalidArgument);
  ToProto(FullSpec(), &message);
  message.mutable_routing()->set_chunk(pb::REDUCE_UNSPECIFIED);
  EXPECT_EQ(FromProto(message).status().code(), absl::StatusCode::kInvalidArgument);
}

// Equal messages: fields are compared by the message's own text.
template <class Message, class Value>
void ExpectRoundTrip(const Value& value) {
  Message message;
  ToProto(value, &message);
  Message again;
  ToProto(FromProto(message), &again);
  EXPECT_EQ(message.DebugString(), again.DebugString());
  EXPECT_FALSE(message.DebugString().empty());
}

TEST(Convert, RequestsRoundTrip) {
  GenerateRequest generate{"b", "q", "router", 3, 4, 5, 6, false, true, 0.5f, 99};
  ExpectRoundTrip<pb::GenerateRequest>(generate);
  generate.scan = Scan::kExact;
  generate.read_together = true;
  RetrieveRequest retrieve{"b", "q", 7, 8, 9, true, Scan::kCoarse, {32, 64}};
  ExpectRoundTrip<pb::RetrieveRequest>(retrieve);
  pb::GenerateRequest message;
  ToProto(generate, &message);
  const GenerateRequest back = FromProto(message);
  EXPECT_EQ(back.mode, "router");
  EXPECT_EQ(back.top_k, 3);
  EXPECT_EQ(back.reader_documents, 4);
  EXPECT_EQ(back.max_rounds, 5);
  EXPECT_EQ(back.max_new_tokens, 6);
  EXPECT_FALSE(back.use_memory);
  EXPECT_TRUE(back.allow_partial);
  EXPECT_EQ(back.temperature, 0.5f);
  EXPECT_EQ(back.seed, 99u);
  EXPECT_EQ(back.scan, Scan::kExact);
  EXPECT_TRUE(back.read_together);
}

TEST(Convert, ScanComparisonsRoundTrip) {
  ExpectRoundTrip<pb::ScanComparison>(ScanComparison{64, 1200, 1199, 2.5, 1.25});
  ExpectRoundTrip<pb::CoarseState>(CoarseState{true, true, 64, 16, 1200, 1199, 70, 80});
  RetrieveReply reply;
  reply.comparisons = {{32, 4, 3, 2, 1}, {64, 4, 4, 2, 1}};
  ExpectRoundTrip<pb::RetrieveReply>(reply);
  EXPECT_EQ(FromProto(static_cast<pb::Scan>(77)), Scan::kDefault);
}

TEST(Convert, AbsentFieldsStayAbsent) {
  const GenerateRequest back = FromProto(pb::GenerateRequest());
  EXPECT_EQ(back.scan, Scan::kDefault);
  EXPECT_FALSE(back.mode || back.top_k || back.reader_documents || back.max_rounds ||
               back.max_new_tokens);
  EXPECT_TRUE(back.use_memory);
  const auto options = FromProto(pb::BankOptions());
  ASSERT_TRUE(options.ok());
  EXPECT_FALSE(options->routing_dtype || options->content_dtype || options->part_tokens ||
               options->routing_chunk_tokens || options->content_chunk_tokens ||
               options->parse_special_tokens);
}

TEST(Convert, EventsRoundTrip) {
  const RoutedDocument document{5, "id", "title", 2, {3, 9}, 0.75f, 11};
  DoneEvent done{"answer", {document}, "stop", {"a"}, {1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6, 7},
                 true,     {5}};
  const GenerateEvent events[] = {
      RoutingEvent{1, {document}, {{15, {{0.5f, 3}, {0.25f, 4}}}}, {"b"}},
      DocumentsLoadedEvent{2, {document}}, TextEvent{"text", true}, done};
  for (const GenerateEvent& event : events) {
    pb::GenerateEvent message, again;
    ToProto(event, &message);
    GenerateEvent back;
    ASSERT_TRUE(FromProto(message, &back));
    EXPECT_EQ(back.index(), event.index());
    ToProto(back, &again);
    EXPECT_EQ(message.DebugString(), again.DebugString());
  }
  GenerateEvent unused;
  EXPECT_FALSE(FromProto(pb::GenerateEvent(), &unused));
}

TEST(Convert, ShardStatsRoundTrip) {
  pb::ShardStats message;
  ToProto(ShardStats{FullSpec(),
                     1,
                     2,
                     3,
                     4,
                     5,
                     6,
                     7,
                     8,
                     9,
                     10,
                     11,
                     12,
                     13,
                     14,
                     {true, true, 64, 16, 1200, 1199, 70, 80},
                     15,
                     16},
          &message);
  pb::ShardStats again;
  ToProto(*FromProto(message), &again);
  EXPECT_EQ(message.DebugString(), again.DebugString());
  EXPECT_EQ(again.rescanned_selections(), 12);
  EXPECT_EQ(again.coarse_selections(), 13);
  EXPECT_EQ(again.coarse().same(), 1199);
  EXPECT_EQ(again.next_reference(), 15);
  EXPECT_EQ(again.host_tier_bytes(), 16);
}

TEST(Wire, StatusesKeepCodeAndMessage) {
  const absl::Status status = absl::DataLossError("document 'é' is damaged");
  EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
}

TEST(Wire, StatusesKeepWhatTheyAreAbout) {
  const absl::Status refusal = absl::FailedPreconditionError("another model");
  const absl::Status about = FromGrpc(ToGrpc(AboutNode(refusal)));
  EXPECT_EQ(about.code(), refusal.code());
  EXPECT_EQ(about.message(), refusal.message());
  EXPECT_TRUE(IsAboutNode(about));
  EXPECT_FALSE(IsAboutNode(FromGrpc(ToGrpc(refusal))));
  // Details of a peer that keeps something else there.
  const grpc::Status strange(grpc::StatusCode::FAILED_PRECONDITION, "no", "\xFF not a message");
  EXPECT_EQ(FromGrpc(strange), absl::FailedPreconditionError("no"));
}

// Clients in any language read details as google.rpc.Status.
TEST(Wire, DetailsAreLaidOutAsGoogleRpcStatus) {
  const grpc::Status status = ToGrpc(AboutNode(absl::FailedPreconditionError("no")));
  const std::string url = "type.googleapis.com/msa.v1.AboutNode";
  const std::string any = std::string("\x0a") + static_cast<char>(url.size()) + url;  // field 1
  EXPECT_EQ(status.error_details(), std::string("\x08\x09") +  // code 9, field 1
                                        "\x12\x02no" +         // message, field 2
                                        "\x1a" + static_cast<char>(any.size()) + any);  // field 3
  EXPECT_EQ(ToGrpc(absl::FailedPreconditionError("no")).error_details(), "");
}

TEST(Wire, ADamagedReplyIsNotTheCallersFault) {
  grpc::Slice slice("\xFF");
  grpc::ByteBuffer buffer(&slice, 1);
  pb::PutDocumentReply reply;
  EXPECT_EQ(ReplyFromBuffer(&buffer, &reply).code(), absl::StatusCode::kInternal);
  grpc::ByteBuffer none;  // a call that ended well without one
  EXPECT_EQ(ReplyFromBuffer(&none, &reply).code(), absl::StatusCode::kInternal);
  grpc::ByteBuffer whole = ToBuffer(reply);
  EXPECT_TRUE(ReplyFromBuffer(&whole, &reply).ok());
}

TEST(Wire, StatusMessagesAreUtf8AndShort) {
  const grpc::Status broken = ToGrpc(absl::InvalidArgumentError("bad \xFF id"));
  EXPECT_EQ(broken.error_message(), "bad \\xff id");
  std::string wide;
  for (int i = 0; i < 3000; ++i) wide += "é";
  const grpc::Status cut = ToGrpc(absl::InvalidArgumentError("x" + wide));
  EXPECT_LE(cut.error_message().size(), 2100u);
  EXPECT_EQ(AsUtf8(cut.error_message()), cut.error_message());
}

TEST(Wire, BrokenUtf8InAStringFieldIsInvalidArgumentWithWords) {
  // DeleteBankRequest{name: "\xFF"}, by hand: generated code would complain when writing it.
  const std::string bytes = "\x0A\x01\xFF";
  grpc::Slice slice(bytes);
  grpc::ByteBuffer buffer(&slice, 1);
  pb::DeleteBankRequest request;
  const absl::Status status = FromBuffer(&buffer, &request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("UTF-8"), std::string::npos);
}

}  // namespace
}  // namespace msa::rpc

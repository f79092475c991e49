// What requests are refused before they are taken apart.
#include "rpc/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "grpcpp/support/slice.h"
#include "rpc/convert.h"

namespace msa::rpc {
namespace {

using ::testing::HasSubstr;

constexpr int kTooMany = kMaxPieces + 1;

absl::Status Received(std::string bytes, google::protobuf::Message* request) {
  grpc::Slice slice(std::move(bytes));
  grpc::ByteBuffer buffer(&slice, 1);
  return FromBuffer(&buffer, request);
}

void ExpectRefused(const std::string& bytes, google::protobuf::Message* request) {
  const absl::Status status = Received(bytes, request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("has more than 262144 fields"));
}

std::string Repeated(const std::string& bytes, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += bytes;
  return all;
}

TEST(Pieces, ManySmallIdsAreRefused) {
  pb::DeleteDocumentsRequest request;
  for (int i = 0; i < kMaxPieces; ++i) request.add_ids("");
  pb::DeleteDocumentsRequest received;
  EXPECT_TRUE(Received(request.SerializeAsString(), &received).ok());
  EXPECT_EQ(received.ids_size(), kMaxPieces);
  request.add_ids("");
  ExpectRefused(request.SerializeAsString(), &received);
}

TEST(Pieces, ManyNumbersInOneFieldAreRefused) {
  pb::GetPartsRequest request;
  for (int i = 0; i < kTooMany; ++i) request.add_references(1);
  pb::GetPartsRequest received;
  ExpectRefused(request.SerializeAsString(), &received);
}

TEST(Pieces, UnknownFieldsCountInNestedMessagesToo) {
  // Field 15 of Document, which has none: empty bytes, a number, a group with a number in it.
  for (const std::string& unknown : {std::string("\x7a\x00", 2), std::string("\x78\x01", 2),
                                     std::string("\x7b\x78\x01\x7c", 4)}) {
    pb::AddDocumentsRequest request;
    ASSERT_TRUE(request.mutable_document()->ParseFromString(Repeated(unknown, kTooMany)));
    pb::AddDocumentsRequest received;
    ExpectRefused(request.SerializeAsString(), &received);
  }
}

// In a group, which nothing of ours has, a number is nobody's: what would be a broken Document
// outside of it ends no count.
TEST(Pieces, WhatIsInAGroupIsNotTakenForOurs) {
  pb::AddDocumentsRequest received;
  ExpectRefused("\x7b\x12\x01\x0a\x7c" + Repeated("\x78\x01", kTooMany), &received);
}

TEST(Pieces, LargeMessagesOfFewPass) {
  pb::AddDocumentsRequest document;
  document.mutable_document()->set_text(std::string(32 << 20, '\x78'));  // would be fields
  pb::AddDocumentsRequest document_received;
  EXPECT_TRUE(Received(document.SerializeAsString(), &document_received).ok());
  EXPECT_EQ(document_received.document().text().size(), 32u << 20);
  pb::DeleteDocumentsRequest ids;
  for (int i = 0; i < 10000; ++i) ids.add_ids(std::string(512, 'i'));
  pb::DeleteDocumentsRequest ids_received;
  EXPECT_TRUE(Received(ids.SerializeAsString(), &ids_received).ok());
}

TEST(Pieces, DamagedMessagesAreCalledSo) {
  pb::DeleteDocumentsRequest received;
  for (const char* end : {"\x12", "\x12\x05", "\x11\x01", "\x7c"}) {
    const absl::Status status = Received(Repeated("\x12\x02zz", 100000) + end, &received);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("it is damaged"));
  }
}

TEST(Pieces, RepliesMayHaveAnyNumber) {
  pb::DeleteDocumentsReply reply;
  for (int i = 0; i < kTooMany; ++i) reply.add_results();
  grpc::ByteBuffer buffer = ToBuffer(reply);
  EXPECT_TRUE(ReplyFromBuffer(&buffer, &reply).ok());
}

}  // namespace
}  // namespace msa::rpc

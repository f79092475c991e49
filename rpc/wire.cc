#include "rpc/wire.h"

#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/strings.h"
#include "common/utf8.h"
#include "rpc/convert.h"

namespace msa::rpc {
namespace {

constexpr size_t kMaxStatusMessageBytes = 2048;

// Parse errors are answered with a status; protobuf's own line on stderr for each would let a peer
// fill the log.
bool SilenceProtobufLog() {
  google::protobuf::SetLogHandler(nullptr);
  return true;
}

// Clears `buffer`.
bool Parse(grpc::ByteBuffer* buffer, google::protobuf::Message* message) {
  static const bool silenced = SilenceProtobufLog();
  (void)silenced;
  bool parsed = false;
  if (buffer->Valid()) {
    grpc::ProtoBufferReader reader(buffer);
    parsed = message->ParseFromZeroCopyStream(&reader);
  }
  buffer->Clear();
  return parsed;
}

std::string Short(const std::string& message) {
  const std::string_view cut = CutUtf8(message, kMaxStatusMessageBytes);
  return cut.size() == message.size() ? message : absl::StrCat(ToAbsl(cut), "…");
}

// Empty for a status without payloads.
std::string Details(const absl::Status& status, const std::string& message) {
  pb::StatusDetails details;
  status.ForEachPayload([&](absl::string_view type_url, const absl::Cord& value) {
    pb::StatusDetail* const detail = details.add_details();
    detail->set_type_url(std::string(type_url));
    detail->set_value(std::string(value));
  });
  if (details.details().empty()) return "";
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(message);
  return details.SerializeAsString();
}

}  // namespace

grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message) {
  const size_t size = message.ByteSizeLong();
  grpc::Slice slice(size);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status FromBuffer(grpc::ByteBuffer* buffer, google::protobuf::Message* message,
                        int64_t max_pieces) {
  // Fewer bytes than that need no counting.
  if (buffer->Valid() && buffer->Length() > static_cast<size_t>(max_pieces)) {
    grpc::ProtoBufferReader reader(buffer);
    if (HasMorePieces(&reader, *message->GetDescriptor(), max_pieces)) {
      buffer->Clear();
      return absl::InvalidArgumentError(
          absl::StrCat("the ", message->GetTypeName(), " has more than ", max_pieces,
                       " fields and elements: send less in one message"));
    }
  }
  if (Parse(buffer, message)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the message is not a ", message->GetTypeName(),
                   ": it is damaged, or a text field in it is not UTF-8"));
}

absl::Status ReplyFromBuffer(grpc::ByteBuffer* buffer, google::protobuf::Message* message) {
  if (Parse(buffer, message)) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a reply is damaged and no ", message->GetTypeName(),
                                          ": do both ends run the same version?"));
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message = Short(AsUtf8(std::string(status.message())));
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      Details(status, message));
}

absl::Status FromGrpc(const grpc::Status& status) {
  absl::Status from(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  pb::StatusDetails details;
  if (from.ok() || !details.ParseFromString(status.error_details())) return from;
  for (const pb::StatusDetail& detail : details.details()) {
    from.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return from;
}

}  // namespace msa::rpc

#include "rpc/wire.h"

#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

#include <string>

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
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      Short(AsUtf8(std::string(status.message()))));
}

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace msa::rpc

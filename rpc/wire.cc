#include "rpc/wire.h"

#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>

#include <string>

#include "absl/strings/str_cat.h"
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

std::string CutAtCharacter(std::string text, size_t size) {
  if (text.size() <= size) return text;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) --size;
  text.resize(size);
  return text + "…";
}

}  // namespace

grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message) {
  const size_t size = message.ByteSizeLong();
  grpc::Slice slice(size);
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status FromBuffer(grpc::ByteBuffer* buffer, google::protobuf::Message* message) {
  static const bool silenced = SilenceProtobufLog();
  (void)silenced;
  bool parsed = false;
  if (buffer->Valid()) {
    grpc::ProtoBufferReader reader(buffer);
    parsed = message->ParseFromZeroCopyStream(&reader);
  }
  buffer->Clear();
  if (parsed) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the message is not a ", message->GetTypeName(),
                   ": it is damaged, or a text field in it is not UTF-8"));
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(
      static_cast<grpc::StatusCode>(status.code()),
      CutAtCharacter(AsUtf8(std::string(status.message())), kMaxStatusMessageBytes));
}

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace msa::rpc

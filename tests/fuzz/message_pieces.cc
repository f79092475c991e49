// Requests of a peer, counted before they are taken apart. The first byte says of which kind the
// rest is. A message that is read has no more elements than were counted, and no message has more
// pieces than bytes.
#include "rpc/message_pieces.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "common/check.h"
#include "rpc/convert.h"
#include "rpc/wire.h"
#include "tests/fuzz/target.h"

namespace msa::rpc {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

// Of every shape: parts, packed lists, ids, nested messages, optional fields.
const std::array<const Message*, 6> kRequests = {
    &pb::PutDocumentRequest::default_instance(),     &pb::FetchBlocksRequest::default_instance(),
    &pb::DeleteDocumentsRequest::default_instance(), &pb::GenerateRequest::default_instance(),
    &pb::RetrieveRequest::default_instance(),        &pb::AddDocumentsRequest::default_instance()};

int64_t Elements(const UnknownFieldSet& unknown) {
  int64_t elements = unknown.field_count();
  for (int i = 0; i < unknown.field_count(); ++i) {
    const UnknownField& field = unknown.field(i);
    if (field.type() == UnknownField::TYPE_GROUP) elements += Elements(field.group());
  }
  return elements;
}

int64_t Elements(const Message& message) {
  const auto* reflection = message.GetReflection();
  int64_t elements = Elements(reflection->GetUnknownFields(message));
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const bool is_message = field->message_type() != nullptr;
    if (!field->is_repeated()) {
      elements += 1 + (is_message ? Elements(reflection->GetMessage(message, field)) : 0);
      continue;
    }
    const int size = reflection->FieldSize(message, field);
    elements += size;
    for (int i = 0; is_message && i < size; ++i) {
      elements += Elements(reflection->GetRepeatedMessage(message, field, i));
    }
  }
  return elements;
}

bool HasMore(std::string_view bytes, const Message& message, int64_t limit) {
  google::protobuf::io::ArrayInputStream input(bytes.data(), static_cast<int>(bytes.size()), 7);
  return HasMorePieces(&input, *message.GetDescriptor(), limit);
}

grpc::ByteBuffer Buffer(std::string_view bytes) {
  const grpc::Slice slice(bytes.data(), bytes.size());
  return grpc::ByteBuffer(&slice, 1);
}

void Try(const Message& kind, std::string_view bytes) {
  const std::unique_ptr<Message> message(kind.New());
  grpc::ByteBuffer buffer = Buffer(bytes);
  const absl::Status status = FromBuffer(&buffer, message.get());
  if (!status.ok()) {
    fuzz::CheckRefusal(status);
    for (const int64_t limit : {0, 1, 1000}) HasMore(bytes, kind, limit);  // ends
    return;
  }
  const int64_t elements = Elements(*message);
  MSA_CHECK(elements == 0 || HasMore(bytes, kind, elements - 1));
  MSA_CHECK(!HasMore(bytes, kind, static_cast<int64_t>(bytes.size())));
  grpc::ByteBuffer limited = Buffer(bytes);
  const std::unique_ptr<Message> refused(kind.New());
  if (elements > 1) fuzz::CheckRefusal(FromBuffer(&limited, refused.get(), elements - 1));
  grpc::ByteBuffer written = ToBuffer(*message);
  const std::unique_ptr<Message> again(kind.New());
  MSA_CHECK(FromBuffer(&written, again.get()).ok());
  MSA_CHECK(again->SerializeAsString() == message->SerializeAsString());
}

}  // namespace
}  // namespace msa::rpc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto& kinds = msa::rpc::kRequests;
  msa::rpc::Try(*kinds[data[0] % kinds.size()], msa::fuzz::View(data + 1, size - 1));
  return 0;
}

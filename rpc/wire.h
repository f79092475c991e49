// Messages and statuses as gRPC carries them. Only rpc/*.cc includes this header.
#ifndef MSA_RPC_WIRE_H_
#define MSA_RPC_WIRE_H_

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "rpc/message_pieces.h"

namespace msa::rpc {

// One allocation, one pass.
grpc::ByteBuffer ToBuffer(const google::protobuf::Message& message);
// A request. INVALID_ARGUMENT naming the message when `buffer` is not one, broken UTF-8 in a
// `string` field included, or has more than `max_pieces` fields and elements. Clears `buffer`.
absl::Status FromBuffer(grpc::ByteBuffer* buffer, google::protobuf::Message* message,
                        int64_t max_pieces = kMaxPieces);
// What a server sent, of any number of pieces. INTERNAL, as whoever called it did nothing wrong.
absl::Status ReplyFromBuffer(grpc::ByteBuffer* buffer, google::protobuf::Message* message);

// Codes are the same numbers; payloads are details. Messages are made UTF-8 and cut to 2 KiB: they
// travel in HTTP/2 headers, which peers limit to 8 KiB.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace msa::rpc

#endif  // MSA_RPC_WIRE_H_

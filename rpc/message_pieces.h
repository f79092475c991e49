// How much a request may ask to be taken apart into. Only rpc/*.cc includes this header.
#ifndef MSA_RPC_MESSAGE_PIECES_H_
#define MSA_RPC_MESSAGE_PIECES_H_

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/zero_copy_stream.h>

#include <cstdint>

namespace msa::rpc {

// Fields and elements of lists in one request, those inside of messages too. A parsed one takes
// some fifty bytes however small it was sent: 64 MiB of empty ids would take 3 GB.
inline constexpr int64_t kMaxPieces = 256 << 10;
// Of requests that describe each part of a document.
inline constexpr int64_t kMaxPiecesWithParts = 8 << 20;

// Whether `input`, a serialized message of `type`, has more than `limit`. Of a damaged one what
// stands before the damage counts. Reads each field's head alone, some nanoseconds each.
bool HasMorePieces(google::protobuf::io::ZeroCopyInputStream* input,
                   const google::protobuf::Descriptor& type, int64_t limit);

}  // namespace msa::rpc

#endif  // MSA_RPC_MESSAGE_PIECES_H_

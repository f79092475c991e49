// Long lists as a stream of messages of bounded size. Only rpc/*.cc includes this header.
#ifndef MSA_RPC_BATCHING_H_
#define MSA_RPC_BATCHING_H_

#include <cstddef>

#include "absl/status/status.h"
#include "rpc/client_call.h"
#include "rpc/convert.h"
#include "rpc/server_call.h"

namespace msa::rpc {

// A message is sent when it has grown to this. The largest item (a part's text, a document's
// parts) may come on top and stays far below kMaxRpcMessageBytes.
inline constexpr size_t kBatchBytes = 1u << 20;

// Writes `items` as messages of type Reply, into the repeated field that `mutable_field` gives.
template <class Reply, class Items, class Field>
absl::Status WriteBatches(ServerCall& call, const Items& items, Field mutable_field) {
  Reply reply;
  size_t bytes = 0;
  for (const auto& item : items) {
    auto* added = mutable_field(&reply)->Add();
    ToProto(item, added);
    bytes += added->ByteSizeLong();
    if (bytes < kBatchBytes) continue;
    if (!call.Write(ToBuffer(reply))) return absl::CancelledError("the client is gone");
    reply.Clear();
    bytes = 0;
  }
  if (bytes > 0) call.Write(ToBuffer(reply));
  return absl::OkStatus();
}

// Reads a stream of replies to its end: each(const Reply&).
template <class Reply, class Each>
absl::Status ReadReplies(ClientCall* call, Each each) {
  grpc::ByteBuffer buffer;
  while (call->Read(&buffer)) {
    Reply reply;
    if (absl::Status status = ReplyFromBuffer(&buffer, &reply); !status.ok()) return status;
    each(reply);
  }
  return call->Finish();
}

}  // namespace msa::rpc

#endif  // MSA_RPC_BATCHING_H_

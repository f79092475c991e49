// Messages that carry blocks, written and read by hand: FetchBlocksReply and PutDocumentRequest
// with `blocks`. The bytes are ordinary protobuf (any language's generated code reads them), but
// payloads go in as slices over their owner's memory and come out as pointers into the received
// slices. Only rpc/*.cc includes this header.
#ifndef MSA_RPC_BLOCK_FRAMING_H_
#define MSA_RPC_BLOCK_FRAMING_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "rpc/memory_shard.h"
#include "rpc/types.h"

namespace msa::rpc {

// A message grows to this before it is sent: below, the cost a message (about 20 µs) shows; above,
// the receiver waits longer for the first block. One block larger than this goes alone.
inline constexpr size_t kBlockMessageBytes = 1u << 20;

// Gathers blocks into one message. Payloads of 4 KiB and more are not copied.
class BlockPacker {
 public:
  void Add(const FetchedBlock& block);  // FetchBlocksReply.blocks
  void Add(const EncodedLayer& layer);  // PutDocumentRequest.blocks
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // The message so far; starts a new one.
  grpc::ByteBuffer Take();

 private:
  void Tag(int field, int wire_type);
  void Varint(uint64_t value);
  void Fixed32(uint32_t value);
  void Bytes(int field, const Payload& payload);
  void Flush();

  std::string scratch_;
  std::vector<grpc::Slice> slices_;
  size_t size_ = 0;
};

// Reads a FetchBlocksReply. A payload that lies within one received slice keeps that slice alive
// and is not copied; one that crosses slices is. Stops at the first error of `sink`; INTERNAL for
// a damaged message.
absl::Status UnpackFetchedBlocks(grpc::ByteBuffer* message,
                                 const std::function<absl::Status(FetchedBlock)>& sink);
// Appends the blocks of a PutDocumentRequest. INVALID_ARGUMENT for a damaged message.
absl::Status UnpackPutBlocks(grpc::ByteBuffer* message, std::vector<EncodedLayer>* out);

}  // namespace msa::rpc

#endif  // MSA_RPC_BLOCK_FRAMING_H_

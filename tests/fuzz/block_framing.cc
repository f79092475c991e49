// Messages of blocks from a peer. The oracle is protobuf's generated code: what it reads must be
// read here too, and the same; and what is read here is written and read again.
#include "rpc/block_framing.h"

#include <algorithm>
#include <string>
#include <vector>

#include "common/check.h"
#include "rpc/convert.h"
#include "rpc/wire.h"
#include "tests/fuzz/target.h"

namespace msa::rpc {
namespace {

using google::protobuf::Message;
using google::protobuf::UnknownField;

bool HasGroups(const Message& message) {
  const auto& unknown = message.GetReflection()->GetUnknownFields(message);
  for (int i = 0; i < unknown.field_count(); ++i) {
    if (unknown.field(i).type() == UnknownField::TYPE_GROUP) return true;
  }
  return false;
}

// The same bytes in slices of the given size.
grpc::ByteBuffer Cut(std::string_view bytes, size_t slice) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice) {
    slices.emplace_back(bytes.data() + at, std::min(slice, bytes.size() - at));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

bool Same(const FetchedBlock& a, const FetchedBlock& b) {
  return a.reference == b.reference && a.layer == b.layer && a.record.view() == b.record.view();
}
bool Same(const FetchedBlock& a, const pb::FetchedBlock& b) {
  return a.reference == b.reference() && a.layer == b.layer() && a.record.view() == b.record();
}
bool Same(const EncodedLayer& a, const EncodedLayer& b) {
  return a.routing_crc32c == b.routing_crc32c && a.content_crc32c == b.content_crc32c &&
         a.routing.view() == b.routing.view() && a.content.view() == b.content.view();
}
bool Same(const EncodedLayer& a, const pb::PutBlock& b) {
  return a.routing_crc32c == b.routing_crc32c() && a.content_crc32c == b.content_crc32c() &&
         a.routing.view() == b.routing() && a.content.view() == b.content();
}

absl::Status Unpack(grpc::ByteBuffer message, std::vector<FetchedBlock>* blocks) {
  return UnpackFetchedBlocks(&message, [&](FetchedBlock block) {
    blocks->push_back(std::move(block));
    return absl::OkStatus();
  });
}
absl::Status Unpack(grpc::ByteBuffer message, std::vector<EncodedLayer>* layers) {
  return UnpackPutBlocks(&message, layers);
}

// `Generated` is the message that protobuf reads from the same bytes.
template <typename Block, typename Generated>
void Try(std::string_view bytes, size_t slice) {
  std::vector<Block> blocks;
  const absl::Status status = Unpack(Cut(bytes, slice), &blocks);
  Generated generated;
  grpc::ByteBuffer whole = Cut(bytes, bytes.size());
  const bool parses = FromBuffer(&whole, &generated, static_cast<int64_t>(bytes.size())).ok();
  if (!status.ok()) {
    fuzz::CheckRefusal(status);
    bool has_groups = HasGroups(generated);  // which are written by nobody and not read here
    for (const auto& block : generated.blocks()) has_groups |= HasGroups(block);
    MSA_CHECK(!parses || has_groups);
    return;
  }
  if (parses) {
    MSA_CHECK(std::equal(blocks.begin(), blocks.end(), generated.blocks().begin(),
                         generated.blocks().end(),
                         [](const auto& a, const auto& b) { return Same(a, b); }));
  }
  BlockPacker packer;
  for (const Block& block : blocks) packer.Add(block);
  const size_t announced = packer.size();
  const grpc::ByteBuffer packed = packer.Take();
  MSA_CHECK(packed.Length() == announced);
  std::vector<Block> again;
  MSA_CHECK(Unpack(packed, &again).ok());
  MSA_CHECK(std::equal(blocks.begin(), blocks.end(), again.begin(), again.end(),
                       [](const auto& a, const auto& b) { return Same(a, b); }));
}

}  // namespace
}  // namespace msa::rpc

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace rpc = msa::rpc;
  const std::string_view bytes = msa::fuzz::View(data, size);
  for (const size_t slice : {size_t{3}, std::max<size_t>(size, 1)}) {
    rpc::Try<rpc::FetchedBlock, rpc::pb::FetchBlocksReply>(bytes, slice);
    rpc::Try<rpc::EncodedLayer, rpc::pb::PutDocumentRequest>(bytes, slice);
  }
  return 0;
}

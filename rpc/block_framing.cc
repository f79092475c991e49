#include "rpc/block_framing.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/base/internal/endian.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "rpc/message_pieces.h"

namespace msa::rpc {
namespace {

using google::protobuf::io::CodedOutputStream;

constexpr int kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5;  // wire types
constexpr size_t kCopyBelow = 4096;

size_t VarintSize(uint64_t value) { return CodedOutputStream::VarintSize64(value); }
size_t BytesFieldSize(size_t size) { return size == 0 ? 0 : 1 + VarintSize(size) + size; }

grpc::Slice SliceOver(const Payload& payload) {
  return grpc::Slice(
      const_cast<char*>(payload.view().data()), payload.size(),
      [](void* owner) { delete static_cast<Payload*>(owner); }, new Payload(payload));
}

// Reads protobuf fields from a list of slices.
class SliceReader {
 public:
  explicit SliceReader(grpc::ByteBuffer* message)
      : slices_(std::make_shared<std::vector<grpc::Slice>>()) {
    if (message->Valid()) ok_ = message->Dump(slices_.get()).ok();
    for (const grpc::Slice& slice : *slices_) left_ += slice.size();
    message->Clear();
  }

  bool ok() const { return ok_; }
  size_t left() const { return left_; }
  // Of a message or of the sub-message that ends with `end` bytes left.
  bool More(size_t end) const { return ok_ && left_ > end; }

  uint64_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && ok_; shift += 7) {
      uint8_t byte = 0;
      Copy(&byte, 1);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    ok_ = false;
    return 0;
  }

  uint32_t Fixed32() {
    char bytes[4] = {};
    Copy(bytes, 4);
    return absl::little_endian::Load32(bytes);
  }

  // Enters a sub-message: how much is left at its end.
  size_t Enter() {
    const uint64_t size = Varint();
    if (size > left_) ok_ = false;
    return ok_ ? left_ - size : 0;
  }

  Payload Bytes() {
    const uint64_t size = Varint();
    if (!ok_ || size > left_) {
      ok_ = false;
      return Payload();
    }
    SkipEmptySlices();
    if (size == 0) return Payload();
    const grpc::Slice& slice = (*slices_)[at_];
    if (slice.size() - offset_ >= size) {
      const char* start = reinterpret_cast<const char*>(slice.begin()) + offset_;
      Advance(size);
      return Payload(std::string_view(start, size), slices_);
    }
    std::shared_ptr<char[]> copy(new char[size]);
    Copy(copy.get(), size);
    return Payload(std::string_view(copy.get(), size), copy);
  }

  void SkipField(int wire_type) {
    switch (wire_type) {
      case kVarint:
        Varint();
        return;
      case kFixed64:
        return Skip(8);
      case kLength:
        return Skip(Varint());
      case kFixed32:
        return Skip(4);
      default:
        ok_ = false;
    }
  }

 private:
  void SkipEmptySlices() {
    while (at_ < slices_->size() && offset_ == (*slices_)[at_].size()) {
      ++at_;
      offset_ = 0;
    }
  }
  void Advance(size_t size) {
    offset_ += size;
    left_ -= size;
  }
  void Skip(uint64_t size) { Copy(nullptr, size); }
  // To nowhere when `to` is null.
  void Copy(void* to, uint64_t size) {
    if (size > left_) ok_ = false;
    while (ok_ && size > 0) {
      SkipEmptySlices();
      const size_t here = std::min<size_t>(size, (*slices_)[at_].size() - offset_);
      if (to != nullptr) {
        std::memcpy(to, (*slices_)[at_].begin() + offset_, here);
        to = static_cast<char*>(to) + here;
      }
      Advance(here);
      size -= here;
    }
  }

  const std::shared_ptr<std::vector<grpc::Slice>> slices_;
  size_t at_ = 0;
  size_t offset_ = 0;
  size_t left_ = 0;
  bool ok_ = true;
};

FetchedBlock ReadFetchedBlock(SliceReader& reader, size_t end) {
  FetchedBlock block;
  while (reader.More(end)) {
    const uint64_t tag = reader.Varint();
    switch (tag) {
      case (1 << 3) | kVarint:
        block.reference = static_cast<int64_t>(reader.Varint());
        break;
      case (2 << 3) | kVarint:
        block.layer = static_cast<int32_t>(reader.Varint());
        break;
      case (3 << 3) | kLength:
        block.record = reader.Bytes();
        break;
      default:
        reader.SkipField(tag & 7);
    }
  }
  return block;
}

EncodedLayer ReadPutBlock(SliceReader& reader, size_t end) {
  EncodedLayer layer;
  while (reader.More(end)) {
    const uint64_t tag = reader.Varint();
    switch (tag) {
      case (1 << 3) | kFixed32:
        layer.routing_crc32c = reader.Fixed32();
        break;
      case (2 << 3) | kFixed32:
        layer.content_crc32c = reader.Fixed32();
        break;
      case (3 << 3) | kLength:
        layer.routing = reader.Bytes();
        break;
      case (4 << 3) | kLength:
        layer.content = reader.Bytes();
        break;
      default:
        reader.SkipField(tag & 7);
    }
  }
  return layer;
}

}  // namespace

void BlockPacker::Varint(uint64_t value) {
  uint8_t bytes[10];
  const uint8_t* end = CodedOutputStream::WriteVarint64ToArray(value, bytes);
  scratch_.append(reinterpret_cast<char*>(bytes), end - bytes);
}

void BlockPacker::Tag(int field, int wire_type) { Varint((field << 3) | wire_type); }

void BlockPacker::Fixed32(uint32_t value) {
  char bytes[4];
  absl::little_endian::Store32(bytes, value);
  scratch_.append(bytes, 4);
}

void BlockPacker::Bytes(int field, const Payload& payload) {
  if (payload.size() == 0) return;
  Tag(field, kLength);
  Varint(payload.size());
  if (payload.size() < kCopyBelow) {
    scratch_.append(payload.view());
    return;
  }
  Flush();
  slices_.push_back(SliceOver(payload));
}

void BlockPacker::Flush() {
  if (scratch_.empty()) return;
  slices_.emplace_back(scratch_.data(), scratch_.size());
  scratch_.clear();
}

void BlockPacker::Add(const FetchedBlock& block) {
  const size_t inner = 1 + VarintSize(block.reference) + 1 + VarintSize(block.layer) +
                       BytesFieldSize(block.record.size());
  Tag(1, kLength);
  Varint(inner);
  Tag(1, kVarint);
  Varint(block.reference);
  Tag(2, kVarint);
  Varint(block.layer);
  Bytes(3, block.record);
  size_ += 1 + VarintSize(inner) + inner;
}

void BlockPacker::Add(const EncodedLayer& layer) {
  const size_t inner =
      5 + 5 + BytesFieldSize(layer.routing.size()) + BytesFieldSize(layer.content.size());
  Tag(2, kLength);
  Varint(inner);
  Tag(1, kFixed32);
  Fixed32(layer.routing_crc32c);
  Tag(2, kFixed32);
  Fixed32(layer.content_crc32c);
  Bytes(3, layer.routing);
  Bytes(4, layer.content);
  size_ += 1 + VarintSize(inner) + inner;
}

grpc::ByteBuffer BlockPacker::Take() {
  Flush();
  grpc::ByteBuffer message(slices_.data(), slices_.size());
  slices_.clear();
  size_ = 0;
  return message;
}

absl::Status UnpackFetchedBlocks(grpc::ByteBuffer* message,
                                 const std::function<absl::Status(FetchedBlock)>& sink) {
  SliceReader reader(message);
  while (reader.More(0)) {
    const uint64_t tag = reader.Varint();
    if (tag != ((1 << 3) | kLength)) {
      reader.SkipField(tag & 7);
      continue;
    }
    const size_t end = reader.Enter();
    FetchedBlock block = ReadFetchedBlock(reader, end);
    if (!reader.ok() || reader.left() != end) break;
    MSA_RETURN_IF_ERROR(sink(std::move(block)));
  }
  if (reader.ok() && reader.left() == 0) return absl::OkStatus();
  return absl::InternalError("a message of blocks is damaged: do both ends run the same version?");
}

absl::Status UnpackPutBlocks(grpc::ByteBuffer* message, std::vector<EncodedLayer>* out) {
  SliceReader reader(message);
  // An empty block has two bytes here and sizeof(EncodedLayer) once it is read: 64 MiB, 2.4 GB.
  const size_t most = out->size() + kMaxPieces;
  while (reader.More(0)) {
    const uint64_t tag = reader.Varint();
    if (tag != ((2 << 3) | kLength)) {
      reader.SkipField(tag & 7);
      continue;
    }
    const size_t end = reader.Enter();
    EncodedLayer layer = ReadPutBlock(reader, end);
    if (!reader.ok() || reader.left() != end) break;
    if (out->size() == most) {
      return absl::InvalidArgumentError(absl::StrCat("a message has more than ", kMaxPieces,
                                                     " blocks: send less in one message"));
    }
    out->push_back(std::move(layer));
  }
  if (reader.ok() && reader.left() == 0) return absl::OkStatus();
  return absl::InvalidArgumentError("a message of blocks is damaged");
}

}  // namespace msa::rpc

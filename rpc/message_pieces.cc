#include "rpc/message_pieces.h"

#include <google/protobuf/io/coded_stream.h>

namespace msa::rpc {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::io::CodedInputStream;

constexpr uint32_t kStartGroup = 3, kEndGroup = 4;  // wire types

class Counter {
 public:
  Counter(CodedInputStream* input, int64_t limit) : input_(input), left_(limit) {}

  // false: damaged, or past the limit. No message of ours holds itself: the depth is small.
  bool Count(const Descriptor& type) {
    int64_t groups = 0;  // open ones: no message of ours has any, so what is in one is unknown
    while (const uint32_t tag = input_->ReadTag()) {
      --left_;
      const uint32_t wire_type = tag & 7;
      if (wire_type == kStartGroup) ++groups;
      if (wire_type == kEndGroup) --groups;
      const int number = static_cast<int>(tag >> 3);
      const FieldDescriptor* field = groups == 0 ? type.FindFieldByNumber(number) : nullptr;
      if (left_ < 0 || !Skip(field, wire_type)) return false;
    }
    return true;
  }

  bool past_limit() const { return left_ < 0; }

 private:
  // `field`: null where it is unknown.
  bool Skip(const FieldDescriptor* field, uint32_t wire_type) {
    uint64_t number;
    int size;
    switch (wire_type) {
      case 0:
        return input_->ReadVarint64(&number);
      case 1:
        return input_->Skip(8);
      case 2:
        return input_->ReadVarintSizeAsInt(&size) && SkipSized(field, size);
      case 5:
        return input_->Skip(4);
      default:  // the ends of a group: what is in it is counted as if it stood outside
        return true;
    }
  }

  bool SkipSized(const FieldDescriptor* field, int size) {
    if (field != nullptr && field->message_type() != nullptr) {
      const auto outer = input_->PushLimit(size);
      const bool well = Count(*field->message_type());
      input_->PopLimit(outer);
      return well;
    }
    if (field != nullptr && field->is_packable()) left_ -= size;  // a byte each at least
    return left_ >= 0 && input_->Skip(size);
  }

  CodedInputStream* const input_;
  int64_t left_;
};

}  // namespace

bool HasMorePieces(google::protobuf::io::ZeroCopyInputStream* input, const Descriptor& type,
                   int64_t limit) {
  CodedInputStream coded(input);
  Counter counter(&coded, limit);
  counter.Count(type);
  return counter.past_limit();
}

}  // namespace msa::rpc

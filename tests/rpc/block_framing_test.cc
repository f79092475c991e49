// The oracle is protobuf's generated code: what the packer writes it must read, and the reverse.
#include "rpc/block_framing.h"

#include <gtest/gtest.h>

#include <random>

#include "rpc/convert.h"
#include "rpc/wire.h"

namespace msa::rpc {
namespace {

std::string Noise(std::mt19937& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

constexpr size_t kSizes[] = {0, 1, 127, 128, 4095, 4096, 70000};

// The same bytes in slices of the given size.
grpc::ByteBuffer Cut(const std::string& bytes, size_t slice) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice) {
    slices.emplace_back(bytes.data() + at, std::min(slice, bytes.size() - at));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

TEST(BlockFraming, GeneratedCodeReadsFetchedBlocks) {
  std::mt19937 random(1);
  BlockPacker packer;
  std::vector<FetchedBlock> blocks;
  for (size_t size : kSizes) {
    blocks.push_back({static_cast<int64_t>(size) << 33, static_cast<int32_t>(size),
                      Payload(Noise(random, size))});
    packer.Add(blocks.back());
  }
  const size_t announced = packer.size();
  grpc::ByteBuffer message = packer.Take();
  EXPECT_EQ(message.Length(), announced);
  EXPECT_TRUE(packer.empty());
  pb::FetchBlocksReply reply;
  ASSERT_TRUE(FromBuffer(&message, &reply).ok());
  ASSERT_EQ(reply.blocks_size(), static_cast<int>(blocks.size()));
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(reply.blocks(i).reference(), blocks[i].reference);
    EXPECT_EQ(reply.blocks(i).layer(), blocks[i].layer);
    EXPECT_EQ(reply.blocks(i).record(), blocks[i].record.view());
  }
}

TEST(BlockFraming, ReadsGeneratedFetchedBlocksHoweverTheyAreCut) {
  std::mt19937 random(2);
  pb::FetchBlocksReply reply;
  for (size_t size : kSizes) {
    pb::FetchedBlock* block = reply.add_blocks();
    block->set_reference(static_cast<int64_t>(size) * 7);
    block->set_layer(static_cast<int32_t>(size % 36));
    block->set_record(Noise(random, size));
  }
  const std::string bytes = reply.SerializeAsString();
  for (size_t slice : {size_t{1}, size_t{3}, size_t{1000}, bytes.size()}) {
    grpc::ByteBuffer message = Cut(bytes, slice);
    int i = 0;
    const absl::Status status = UnpackFetchedBlocks(&message, [&](FetchedBlock block) {
      EXPECT_EQ(block.reference, reply.blocks(i).reference());
      EXPECT_EQ(block.layer, reply.blocks(i).layer());
      EXPECT_EQ(block.record.view(), reply.blocks(i).record());
      ++i;
      return absl::OkStatus();
    });
    ASSERT_TRUE(status.ok()) << status << " in slices of " << slice;
    EXPECT_EQ(i, reply.blocks_size());
  }
}

TEST(BlockFraming, PayloadsOutliveTheMessageAndAreNotCopied) {
  BlockPacker packer;
  const auto bytes = std::make_shared<const std::string>(100000, 'x');
  packer.Add(FetchedBlock{1, 2, Payload(bytes)});
  grpc::ByteBuffer message = packer.Take();
  Payload kept;
  ASSERT_TRUE(UnpackFetchedBlocks(&message, [&](FetchedBlock block) {
                kept = block.record;
                return absl::OkStatus();
              }).ok());
  message.Clear();
  EXPECT_EQ(kept.view().data(), bytes->data());
  EXPECT_GT(bytes.use_count(), 1);
  kept = Payload();
  EXPECT_EQ(bytes.use_count(), 1);
}

TEST(BlockFraming, PutBlocksAgreeWithGeneratedCodeBothWays) {
  std::mt19937 random(3);
  BlockPacker packer;
  std::vector<EncodedLayer> layers;
  for (size_t size : kSizes) {
    layers.push_back({Payload(Noise(random, size)), Payload(Noise(random, size * 2)),
                      static_cast<uint32_t>(random()), static_cast<uint32_t>(random())});
    packer.Add(layers.back());
  }
  grpc::ByteBuffer message = packer.Take();
  pb::PutDocumentRequest request;
  ASSERT_TRUE(FromBuffer(&message, &request).ok());
  ASSERT_EQ(request.blocks_size(), static_cast<int>(layers.size()));
  grpc::ByteBuffer again = Cut(request.SerializeAsString(), 5000);
  std::vector<EncodedLayer> read;
  ASSERT_TRUE(UnpackPutBlocks(&again, &read).ok());
  ASSERT_EQ(read.size(), layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    EXPECT_EQ(request.blocks(i).content(), layers[i].content.view());
    EXPECT_EQ(read[i].routing.view(), layers[i].routing.view());
    EXPECT_EQ(read[i].content.view(), layers[i].content.view());
    EXPECT_EQ(read[i].routing_crc32c, layers[i].routing_crc32c);
    EXPECT_EQ(read[i].content_crc32c, layers[i].content_crc32c);
  }
}

TEST(BlockFraming, FieldsOfLaterVersionsAreSkipped) {
  pb::FetchBlocksReply reply;
  pb::FetchedBlock* block = reply.add_blocks();
  block->set_reference(9);
  block->set_record("abc");
  auto* unknown = block->GetReflection()->MutableUnknownFields(block);
  unknown->AddVarint(100, 5);
  unknown->AddFixed32(101, 5);
  unknown->AddFixed64(102, 5);
  unknown->AddLengthDelimited(103, "later");
  reply.GetReflection()->MutableUnknownFields(&reply)->AddLengthDelimited(7, "later");
  grpc::ByteBuffer message = Cut(reply.SerializeAsString(), 2);
  int seen = 0;
  ASSERT_TRUE(UnpackFetchedBlocks(&message, [&](FetchedBlock got) {
                EXPECT_EQ(got.reference, 9);
                EXPECT_EQ(got.record.view(), "abc");
                ++seen;
                return absl::OkStatus();
              }).ok());
  EXPECT_EQ(seen, 1);
}

// Every prefix and many flipped bytes: an error or an answer, never a crash or a read past the end
// (run under the address sanitizer).
TEST(BlockFraming, SurvivesDamage) {
  std::mt19937 random(4);
  pb::FetchBlocksReply reply;
  for (int i = 0; i < 3; ++i) {
    pb::FetchedBlock* block = reply.add_blocks();
    block->set_reference(i - 1);
    block->set_layer(i);
    block->set_record(Noise(random, 40));
  }
  const std::string whole = reply.SerializeAsString();
  const auto read = [](const std::string& bytes) {
    grpc::ByteBuffer message = Cut(bytes, 7);
    return UnpackFetchedBlocks(&message, [](FetchedBlock) { return absl::OkStatus(); });
  };
  int refused = 0;
  for (size_t size = 1; size < whole.size(); ++size) refused += !read(whole.substr(0, size)).ok();
  EXPECT_EQ(refused, static_cast<int>(whole.size()) - 3);  // two prefixes are whole messages
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = whole;
    bytes[random() % bytes.size()] ^= static_cast<char>(1 << (random() % 8));
    (void)read(bytes);
  }
}

}  // namespace
}  // namespace msa::rpc

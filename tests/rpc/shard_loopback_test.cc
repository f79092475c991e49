// A shard behind a socket behaves as the shard itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "rpc/client_call.h"
#include "tests/rpc/loopback.h"
#include "tests/support/fake_compute_node.h"
#include "tests/support/fake_shard.h"

namespace msa::rpc {
namespace {

using ::msa::testing::FakeShard;
using ::testing::AllOf;
using ::testing::HasSubstr;

BankSpec Spec() {
  BankSpec spec = msa::testing::TestBankSpec();
  spec.name = "bank";
  spec.uid = 77;
  return spec;
}

EncodedDocument Document(const std::string& id, int parts, size_t content_bytes) {
  EncodedDocument document;
  document.bank = "bank";
  document.bank_uid = 77;
  document.model_fingerprint = Spec().model_fingerprint;
  document.document = {id, "title", std::string(parts * 10, 't'), R"({"k": 1})"};
  std::mt19937 random(static_cast<unsigned>(std::hash<std::string>()(id)));
  for (int i = 0; i < parts; ++i) {
    EncodedPart part;
    part.reference = i + static_cast<int64_t>(std::hash<std::string>()(id) % 1000000007) * 100000;
    part.span = {static_cast<uint64_t>(i) * 10, static_cast<uint64_t>(i) * 10 + 10};
    part.num_tokens = 10;
    part.routing_chunks = 1;
    part.content_chunks = 1;
    for (int layer = 0; layer < 2; ++layer) {
      std::vector<float> keys(8);
      for (float& key : keys) key = static_cast<float>(random() % 64) / 64 - 0.5f;
      std::string content(content_bytes, '\0');
      for (char& byte : content) byte = static_cast<char>(random());
      part.layers.push_back(
          {.routing = Payload(std::string(reinterpret_cast<char*>(keys.data()), 32)),
           .content = Payload(std::move(content)),
           .routing_crc32c = static_cast<uint32_t>(random()),
           .content_crc32c = static_cast<uint32_t>(random())});
    }
    document.parts.push_back(std::move(part));
  }
  return document;
}

class ShardLoopback : public ::testing::Test {
 protected:
  ShardLoopback()
      : server_(ServeLoopback(static_cast<MemoryShard*>(&local_))),
        remote_(MakeRemoteMemoryShard(ClientOf(*server_, "shard 'a'"))) {
    EXPECT_TRUE(remote_->CreateBank(ctx_, Spec()).ok());
  }

  CallContext ctx_ = Within(absl::Seconds(60));
  FakeShard local_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<MemoryShard> remote_;
};

TEST_F(ShardLoopback, BanksComeBackAsTheyWere) {
  const auto banks = remote_->ListBanks(ctx_);
  ASSERT_TRUE(banks.ok()) << banks.status();
  ASSERT_EQ(banks->size(), 1u);
  EXPECT_EQ(banks->front().spec, Spec());
  BankSpec other = Spec();
  other.uid = 78;
  EXPECT_EQ(remote_->CreateBank(ctx_, other).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(remote_->DeleteBank(ctx_, "none").code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(remote_->DeleteBank(ctx_, "bank").ok());
  EXPECT_TRUE(remote_->ListBanks(ctx_)->empty());
}

// Two bytes each as they are sent, 72 once they are taken apart.
TEST_F(ShardLoopback, ManyEmptyBlocksAreRefused) {
  const auto put = [&](const std::string& header, const std::string& blocks) {
    Peer peer(ClientOf(*server_), "msa.v1.ShardService");
    ClientCall call(&peer, Peer::Kind::kData, "PutDocument", ctx_);
    const grpc::Slice first(header), second(blocks);
    if (call.Write(grpc::ByteBuffer(&first, 1))) {
      call.Write(grpc::ByteBuffer(&second, 1), /*last=*/true);
    }
    grpc::ByteBuffer reply;
    EXPECT_FALSE(call.Read(&reply));
    const absl::Status status = call.Finish();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  std::string blocks;
  for (int i = 0; i < 300'000; ++i) blocks += std::string("\x12\x00", 2);
  // PutDocumentHeader.parts with num_layers of 300,000, then of 2^31 - 1.
  EXPECT_THAT(put("\x0a\x06\x2a\x04\x30\xe0\xa7\x12", blocks), HasSubstr("more than 262144"));
  EXPECT_THAT(put("\x0a\x08\x2a\x06\x30\xff\xff\xff\xff\x07", ""), HasSubstr("more than 8388608"));
}

TEST_F(ShardLoopback, AShardOfAnEarlierReleaseGivesNoNumbers) {
  local_.before = [](const std::string& method, const CallContext&) {
    return method == "TakeReferences" ? absl::UnimplementedError("") : absl::OkStatus();
  };
  const absl::Status status = remote_->TakeReferences(ctx_, "bank", 77, 0, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 'a'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("update the memory nodes"));
}

TEST_F(ShardLoopback, DocumentsAreStoredReadListedAndDeleted) {
  const EncodedDocument document = Document("a\xFF binary id", 3, 100);
  const auto put = remote_->PutDocument(ctx_, document);
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(put->revision, 1u);
  EXPECT_EQ(put->num_parts, 3);
  EXPECT_EQ(remote_->PutDocument(ctx_, document)->revision, 2u);
  const auto got = remote_->GetDocument(ctx_, "bank", document.document.id);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->full_text, document.document.FullText());
  EXPECT_EQ(got->info.metadata, document.document.metadata);
  EXPECT_EQ(got->info.parts.size(), 3u);
  EXPECT_EQ(got->info.parts[2].span, document.parts[2].span);
  EXPECT_EQ(remote_->ListDocuments(ctx_, "bank", "", 10)->size(), 1u);
  EXPECT_EQ(*remote_->DeleteDocument(ctx_, "bank", document.document.id), 2u);
  EXPECT_EQ(remote_->GetDocument(ctx_, "bank", document.document.id).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(remote_->ListDocuments(ctx_, "bank", "", 10)->empty());
}

// 20,000 blocks and 100 MB: neither may meet the limit of one message.
TEST_F(ShardLoopback, ManyBlocksArriveWholeAndInOrder) {
  const EncodedDocument document = Document("large", 10000, 5000);
  ASSERT_TRUE(remote_->PutDocument(ctx_, document).ok());
  const auto snapshot = remote_->OpenSnapshot(ctx_, "bank", absl::Minutes(1));
  ASSERT_TRUE(snapshot.ok());
  EXPECT_EQ(snapshot->num_parts, 10000);
  FetchRequest request{
      .bank = "bank", .snapshot_id = snapshot->id, .references = {}, .layers = {3, 5}};
  for (int i = 0; i < 10000; i += 25) request.references.push_back(document.parts[i].reference);
  std::vector<FetchedBlock> blocks;
  const absl::Status status = remote_->FetchBlocks(ctx_, request, [&](FetchedBlock block) {
    blocks.push_back(std::move(block));
    return absl::OkStatus();
  });
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(blocks.size(), 800u);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const EncodedPart& part = document.parts[i % 400 * 25];
    EXPECT_EQ(blocks[i].reference, part.reference);
    EXPECT_EQ(blocks[i].layer, i < 400 ? 3 : 5);
    ASSERT_EQ(blocks[i].record.view(), part.layers[i / 400].content.view());
  }
}

// Has more than a block of the second layer only once the first layer's have arrived.
class OneLayerAfterTheOther : public FakeShard {
 public:
  absl::Status FetchBlocks(const CallContext&, const FetchRequest& request,
                           const std::function<absl::Status(FetchedBlock)>& sink) override {
    for (const int32_t layer : request.layers) {
      for (const int64_t reference : request.references) {
        const absl::Status sent = sink({reference, layer, Payload(std::string("block"))});
        if (!sent.ok()) return sent;
        if (layer == request.layers[0]) continue;
        in_time &= arrived.WaitForNotificationWithTimeout(absl::Seconds(20));
      }
    }
    return absl::OkStatus();
  }
  absl::Notification arrived;
  bool in_time = true;
};

TEST(ShardLoopbackTest, ALayersBlocksDoNotWaitForTheNextLayers) {
  OneLayerAfterTheOther local;
  const auto server = ServeLoopback(static_cast<MemoryShard*>(&local));
  const auto remote = MakeRemoteMemoryShard(ClientOf(*server, "shard 'a'"));
  const FetchRequest request{
      .bank = "bank", .snapshot_id = 1, .references = {4, 9}, .layers = {3, 5}};
  int blocks = 0;
  EXPECT_TRUE(remote
                  ->FetchBlocks(Within(absl::Seconds(60)), request,
                                [&](const FetchedBlock& block) {
                                  if (++blocks == 2) local.arrived.Notify();
                                  EXPECT_EQ(block.layer, blocks <= 2 ? 3 : 5);
                                  return absl::OkStatus();
                                })
                  .ok());
  EXPECT_EQ(blocks, 4);
  EXPECT_TRUE(local.in_time);
}

TEST_F(ShardLoopback, FetchStopsAtTheSinksError) {
  const EncodedDocument document = Document("d", 100, 200000);
  ASSERT_TRUE(remote_->PutDocument(ctx_, document).ok());
  const auto snapshot = remote_->OpenSnapshot(ctx_, "bank", absl::Minutes(1));
  FetchRequest request{
      .bank = "bank", .snapshot_id = snapshot->id, .references = {}, .layers = {3}};
  for (const EncodedPart& part : document.parts) request.references.push_back(part.reference);
  int seen = 0;
  const absl::Status status = remote_->FetchBlocks(ctx_, request, [&](FetchedBlock) {
    return ++seen == 3 ? absl::DataLossError("damaged") : absl::OkStatus();
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(seen, 3);
}

TEST_F(ShardLoopback, RoutesAndRanksAsTheShardItself) {
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(remote_->PutDocument(ctx_, Document(absl::StrCat("d", i), 2, 10)).ok());
  }
  const auto near = local_.OpenSnapshot(ctx_, "bank", absl::Minutes(1));
  const auto far = remote_->OpenSnapshot(ctx_, "bank", absl::Minutes(1));
  // More rows than fit one message.
  RouteRequest route{.bank = "bank",
                     .snapshot_id = 0,
                     .round = 0,
                     .layer = 5,
                     .top_k = 20,
                     .queries = std::vector<float>(8 * 200000, 0.125f)};
  route.queries[8 * 200000 - 3] = 3.5f;
  route.snapshot_id = near->id;
  const auto expected = local_.Route(ctx_, route);
  route.snapshot_id = far->id;
  const auto actual = remote_->Route(ctx_, route);
  ASSERT_TRUE(actual.ok()) << actual.status();
  ASSERT_EQ(actual->size(), 20u);
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(actual->at(i).scored.reference, expected->at(i).scored.reference);
    EXPECT_EQ(actual->at(i).scored.score, expected->at(i).scored.score);
    EXPECT_EQ(actual->at(i).content_chunks, expected->at(i).content_chunks);
  }
  RankRequest rank{.bank = "bank",
                   .snapshot_id = far->id,
                   .round = 0,
                   .limit = 5,
                   .one_per_document = true,
                   .exclude = {actual->front().scored.reference}};
  const auto ranked = remote_->Rank(ctx_, rank);
  ASSERT_EQ(ranked->size(), 5u);
  EXPECT_NE(ranked->front().scored.reference, actual->front().scored.reference);
  const auto parts = remote_->GetParts(
      ctx_, "bank", far->id,
      {actual->at(3).scored.reference, 999999999, actual->at(1).scored.reference});
  ASSERT_EQ(parts->size(), 2u);
  EXPECT_EQ(parts->at(0).reference, actual->at(3).scored.reference);
  EXPECT_EQ(parts->at(1).num_parts, 2);
  EXPECT_TRUE(remote_->CloseSnapshot(ctx_, far->id).ok());
  EXPECT_EQ(remote_->Rank(ctx_, rank).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ShardLoopback, StatsComeBack) {
  ASSERT_TRUE(remote_->PutDocument(ctx_, Document("d", 4, 10)).ok());
  const auto stats = remote_->Stats(ctx_, "bank");
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->num_parts, 4);
  EXPECT_EQ(stats->spec, Spec());
  EXPECT_EQ(remote_->Stats(ctx_, "none").status().code(), absl::StatusCode::kNotFound);
}

// 1000 documents with 60 KiB of metadata each: more than one message holds.
TEST_F(ShardLoopback, LongListsAreNotCutOff) {
  for (int i = 0; i < 1000; ++i) {
    EncodedDocument document = Document(absl::StrCat("d", 10000 + i), 1, 1);
    document.document.metadata = "{\"a\":\"" + std::string(60 << 10, 'm') + "\"}";
    ASSERT_TRUE(local_.PutDocument(ctx_, document).ok());
  }
  const auto list = remote_->ListDocuments(ctx_, "bank", "", 1000);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->size(), 1000u);
}

class PlacedShard : public ::testing::Test {
 protected:
  std::unique_ptr<GrpcServer> Serve(std::optional<ShardPlace> place) {
    GrpcServer::Builder builder;
    auto server = builder.Add(&local_, place).Start("127.0.0.1:0");
    EXPECT_TRUE(server.ok()) << server.status();
    return *std::move(server);
  }
  static std::unique_ptr<MemoryShard> Expecting(const GrpcServer& server, const ShardPlace& place) {
    RemoteOptions options = ClientOf(server, "shard 'a'");
    options.place = place;
    return MakeRemoteMemoryShard(std::move(options));
  }

  const CallContext ctx_ = Within(absl::Seconds(60));
  FakeShard local_;
};

TEST_F(PlacedShard, IsNotUsedUnderAnotherMap) {
  ASSERT_TRUE(local_.CreateBank(ctx_, Spec()).ok());
  const auto server = Serve(ShardPlace{1, 3, 1024});
  for (const ShardPlace& other :
       {ShardPlace{0, 3, 1024}, {1, 2, 1024}, {1, 3, 512}, {0, 1, 1024}}) {
    // Whatever is asked first.
    const auto ask = [&](auto call) {
      const auto remote = Expecting(*server, other);
      const absl::Status status = call(*remote);
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
      EXPECT_THAT(std::string(status.message()),
                  AllOf(HasSubstr(absl::StrCat("shard 'a' (127.0.0.1:", server->port(), ")")),
                        HasSubstr("shard 2 of 3 over 1024 slots"), HasSubstr(ToString(other))));
    };
    ask([&](MemoryShard& shard) { return shard.ListBanks(ctx_).status(); });
    ask([&](MemoryShard& shard) { return shard.GetDocument(ctx_, "bank", "d").status(); });
    ask([&](MemoryShard& shard) { return shard.ListDocuments(ctx_, "bank", "", 1).status(); });
    ask([&](MemoryShard& shard) { return shard.PutDocument(ctx_, Document("d", 1, 8)).status(); });
    ask([&](MemoryShard& shard) { return shard.DeleteBank(ctx_, "bank"); });
    ask([&](MemoryShard& shard) { return shard.DeleteUnusedBank(ctx_, "bank", Spec().uid); });
    ask([&](MemoryShard& shard) { return shard.OpenSnapshot(ctx_, "bank", {}).status(); });
    ask([&](MemoryShard& shard) {
      return shard.FetchBlocks(ctx_, {}, [](FetchedBlock) { return absl::OkStatus(); });
    });
  }
  EXPECT_EQ(local_.ListBanks(ctx_)->size(), 1u);
  EXPECT_TRUE(local_.ListDocuments(ctx_, "bank", "", 1)->empty());
}

TEST_F(PlacedShard, IsUsedWhereItIsExpectedOrDoesNotSay) {
  ASSERT_TRUE(local_.CreateBank(ctx_, Spec()).ok());
  const auto server = Serve(ShardPlace{1, 3, 1024});
  const auto silent = Serve(std::nullopt);
  const auto alone = Serve(ShardPlace{0, 1, 16});  // all documents, whatever the slots
  std::vector<std::unique_ptr<MemoryShard>> remotes;
  remotes.push_back(Expecting(*server, {1, 3, 1024}));
  remotes.push_back(Expecting(*silent, {1, 3, 1024}));
  remotes.push_back(Expecting(*alone, {0, 1, 1024}));
  remotes.push_back(MakeRemoteMemoryShard(ClientOf(*server)));
  for (const auto& remote : remotes) {
    EXPECT_TRUE(remote->ListDocuments(ctx_, "bank", "", 1).ok());
    const auto banks = remote->ListBanks(ctx_);
    ASSERT_TRUE(banks.ok()) << banks.status();
    EXPECT_EQ(banks->size(), 1u);
  }
}

}  // namespace
}  // namespace msa::rpc

// A made-up bank: what a node reads of it is whole, in order, and the same every time.
#include "memory_node/synthetic_store.h"

#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/group_backend.h"
#include "memory_node/record_format.h"
#include "memory_node/shard.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/tiny_backend.h"

namespace msa::memory_node {
namespace {

class SyntheticStoreTest : public ::testing::TestWithParam<DType> {
 protected:
  static constexpr int64_t kCount = 50;
  const rpc::BankSpec bank_ = testing::TestBank(GetParam(), GetParam());
  const int32_t tokens_ = 3 * bank_.routing_chunk_tokens - 1;
};

TEST_P(SyntheticStoreTest, EveryKeyRecordIsWholeAndInOrder) {
  const auto store = MakeSyntheticStore({bank_, kCount, tokens_});
  const auto cursor = store->NewCursor(Table::kRouting, true);
  std::string last;
  for (int64_t document = 0; document < kCount; ++document) {
    for (int32_t layer : bank_.router_layers) {
      ASSERT_TRUE(cursor->Valid());
      EXPECT_LT(last, cursor->key());
      EXPECT_EQ(cursor->key(), BlockKey(bank_.uid, document, layer));
      const auto keys =
          VerifyRecord(cursor->value(), RoutingIdentity(bank_, document, 1, layer, 3));
      EXPECT_TRUE(keys.ok()) << keys.status();
      last = cursor->key();
      cursor->Next();
    }
  }
  EXPECT_FALSE(cursor->Valid());
  cursor->Seek(BlockKey(bank_.uid, 7, bank_.router_layers.front()));
  EXPECT_EQ(KeyReference(cursor->key()), 7);
}

TEST_P(SyntheticStoreTest, ANodeServesItAsAnyBank) {
  const testing::TinyBackend backend;
  ShardOptions options;
  options.background = false;
  const auto shard =
      LocalShard::Open(MakeSyntheticStore({bank_, kCount, tokens_}), &backend, options);
  ASSERT_TRUE(shard.ok()) << shard.status();
  const auto snapshot = (*shard)->OpenSnapshot({}, bank_.name, absl::Minutes(1));
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ(snapshot->num_parts, kCount);
  const rpc::FetchRequest request{bank_.name, snapshot->id, {0, 31}, bank_.router_layers};
  std::vector<std::string> first, second;
  for (auto* fetched : {&first, &second}) {
    const absl::Status status =
        (*shard)->FetchBlocks({}, request, [fetched](rpc::FetchedBlock block) {
          fetched->emplace_back(block.record.view());
          return absl::OkStatus();
        });
    EXPECT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(first.size(), 2 * bank_.router_layers.size());
  EXPECT_EQ(first, second);
  EXPECT_NE(first.front(), first.back());
}

// Scores of equal chunks would be equal, and the best of a bank a matter of ties.
TEST_P(SyntheticStoreTest, NoTwoChunksAreAlike) {
  rpc::BankSpec wide = bank_;
  wide.routing.head_dim = 64;
  const auto store = MakeSyntheticStore({wide, 2000, tokens_});
  const size_t row = wide.routing.key_width() * DTypeBytes(wide.routing_dtype);
  std::set<std::string> rows;
  const auto cursor = store->NewCursor(Table::kRouting, true);
  int64_t chunks = 0;
  for (; cursor->Valid(); cursor->Next()) {
    const std::string_view payload = DecodeRecord(cursor->value())->payload;
    for (int i = 0; i < 3; ++i, ++chunks) rows.insert(std::string(payload.substr(i * row, row)));
  }
  EXPECT_EQ(chunks, 2000 * 3 * static_cast<int64_t>(wide.router_layers.size()));
  EXPECT_EQ(static_cast<int64_t>(rows.size()), chunks);
}

// A segment a unit of work, on as many threads as there are cores, over one backend or three.
TEST_P(SyntheticStoreTest, KeysLoadedInManyPiecesAnswerAsInOne) {
  const testing::TinyBackend one, b, c;
  const auto group = kernels::MakeGroupBackend({&one, &b, &c}, nullptr);
  std::vector<std::vector<rpc::RoutedPart>> answers;
  const std::vector<const kernels::Backend*> backends = {&one, group.get()};
  for (const kernels::Backend* backend : backends) {
    for (const int64_t segment_bytes : {1 << 20, 1}) {
      ShardOptions options;
      options.background = false;
      options.index.min_segment_chunks = 4;
      options.index.max_segment_bytes_per_layer = segment_bytes;
      const auto shard =
          LocalShard::Open(MakeSyntheticStore({bank_, kCount, tokens_}), backend, options);
      ASSERT_TRUE(shard.ok()) << shard.status();
      EXPECT_EQ((*shard)->Stats({}, bank_.name)->num_segments, segment_bytes == 1 ? kCount : 1);
      const auto snapshot = (*shard)->OpenSnapshot({}, bank_.name, absl::Minutes(1));
      rpc::RouteRequest request;
      request.bank = bank_.name;
      request.snapshot_id = snapshot->id;
      request.layer = bank_.router_layers.back();
      request.queries = testing::MakeQueries(bank_, 3, 7);
      request.top_k = 20;
      answers.push_back(*(*shard)->Route({}, request));
      // One document each: told apart by what each was added at.
      const auto ranked = (*shard)->Rank({}, {.bank = bank_.name,
                                              .snapshot_id = snapshot->id,
                                              .round = request.round,
                                              .limit = 64,
                                              .one_per_document = true,
                                              .exclude = {}});
      ASSERT_TRUE(ranked.ok()) << ranked.status();
      EXPECT_EQ(static_cast<int64_t>(ranked->size()), kCount);
    }
  }
  for (const auto& answer : answers) {
    ASSERT_EQ(answer.size(), 20u);
    for (size_t i = 0; i < answer.size(); ++i) {
      EXPECT_EQ(answer[i].scored.reference, answers[0][i].scored.reference);
      EXPECT_EQ(answer[i].scored.score, answers[0][i].scored.score);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, SyntheticStoreTest,
                         ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kInt8,
                                           DType::kFloat8),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

}  // namespace
}  // namespace msa::memory_node

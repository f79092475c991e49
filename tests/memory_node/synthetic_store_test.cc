// A made-up bank: what a node reads of it is whole, in order, and the same every time.
#include "memory_node/synthetic_store.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
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

INSTANTIATE_TEST_SUITE_P(Precisions, SyntheticStoreTest,
                         ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kInt8,
                                           DType::kFloat8),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

}  // namespace
}  // namespace msa::memory_node

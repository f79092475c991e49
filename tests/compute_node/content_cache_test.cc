#include "compute_node/content_cache.h"

#include <string>

#include "common/block_layout.h"
#include "common/block_record.h"
#include "common/strings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace msa::compute_node {
namespace {

using ::testing::HasSubstr;

rpc::BankSpec Bank() {
  rpc::BankSpec bank;
  bank.name = "b";
  bank.uid = 77;
  bank.model_fingerprint = "0123456789abcdef0123456789abcdef";
  bank.router_layers = {3};
  bank.routing.num_q_heads = 4;
  bank.routing.num_kv_heads = 2;
  bank.routing.head_dim = 8;
  bank.content_dtype = DType::kInt8;
  return bank;
}

BlockIdentity Identity(const rpc::BankSpec& bank, int64_t reference, uint32_t chunks) {
  BlockIdentity identity;
  identity.kind = RecordKind::kContent;
  identity.dtype = bank.content_dtype;
  identity.layer = 3;
  identity.num_kv_heads = bank.routing.num_kv_heads;
  identity.bank_uid = bank.uid;
  identity.reference = reference;
  identity.revision = 5;
  identity.fingerprint = bank.model_fingerprint;
  identity.rows = chunks;
  identity.width = bank.routing.key_width();
  return identity;
}

std::string Record(const BlockIdentity& identity) {
  const ContentBlockLayout layout(DType::kInt8, identity.rows, 2, 8);
  std::string payload(layout.size, '\0');
  for (size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<char>(i);
  return EncodeRecord(identity, payload);
}

TEST(ParseContentBlockTest, GivesViewsIntoTheRecord) {
  const rpc::BankSpec bank = Bank();
  const auto block = ParseContentBlock(bank, 9, 3, rpc::Payload(Record(Identity(bank, 9, 3))));
  ASSERT_TRUE(block.ok()) << block.status();
  const kernels::KvView& view = (*block)->view;
  EXPECT_EQ(view.num_tokens, 3);
  EXPECT_EQ(static_cast<const char*>(view.k)[5], 5);
  EXPECT_EQ(static_cast<const char*>(view.v)[0], 3 * 2 * 8);
  EXPECT_EQ(reinterpret_cast<const char*>(view.k_scales)[0], static_cast<char>(2 * 3 * 2 * 8));
  EXPECT_EQ(view.v_scales - view.k_scales, 3 * 2);
}

TEST(ParseContentBlockTest, ReadsFromAnyAlignment) {
  const rpc::BankSpec bank = Bank();
  const auto shifted =
      std::make_shared<const std::string>(StrCat("x", Record(Identity(bank, 9, 3))));
  const rpc::Payload payload(std::string_view(*shifted).substr(1), shifted);
  const auto block = ParseContentBlock(bank, 9, 3, payload);
  ASSERT_TRUE(block.ok()) << block.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*block)->view.k_scales) % 4, 0u);
}

TEST(ParseContentBlockTest, RefusesEveryOtherIdentity) {
  const rpc::BankSpec bank = Bank();
  const BlockIdentity good = Identity(bank, 9, 3);
  std::vector<BlockIdentity> wrong(6, good);
  wrong[0].bank_uid = 78;
  wrong[1].reference = 10;
  wrong[2].layer = 4;
  wrong[3].fingerprint[0] = 'f';
  wrong[4].kind = RecordKind::kRouting;
  wrong[5].width = 8;
  for (const BlockIdentity& identity : wrong) {
    const auto block = ParseContentBlock(bank, 9, 3, rpc::Payload(Record(identity)));
    EXPECT_EQ(block.status().code(), absl::StatusCode::kDataLoss) << identity.ToString();
  }
}

TEST(ParseContentBlockTest, RefusesEveryFlippedByte) {
  const rpc::BankSpec bank = Bank();
  const std::string good = Record(Identity(bank, 9, 3));
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] ^= 0x10;
    EXPECT_FALSE(ParseContentBlock(bank, 9, 3, rpc::Payload(bad)).ok()) << "byte " << i;
  }
}

std::shared_ptr<const ContentBlock> Sized(size_t bytes) {
  auto block = std::make_shared<ContentBlock>();
  block->record = rpc::Payload(std::string(bytes, 'x'));
  return block;
}

TEST(ContentCacheTest, DropsTheLeastRecentlyUsed) {
  ContentCache cache(100);
  cache.Insert({1, 0, 0, 1, 0}, Sized(40));
  cache.Insert({1, 0, 0, 2, 0}, Sized(40));
  EXPECT_NE(cache.Find({1, 0, 0, 1, 0}), nullptr);  // now 2 is the older one
  cache.Insert({1, 0, 0, 3, 0}, Sized(40));
  EXPECT_NE(cache.Find({1, 0, 0, 1, 0}), nullptr);
  EXPECT_EQ(cache.Find({1, 0, 0, 2, 0}), nullptr);
  EXPECT_NE(cache.Find({1, 0, 0, 3, 0}), nullptr);
}

TEST(ContentCacheTest, KeepsBanksShardsTheirStartsReferencesAndLayersApart) {
  ContentCache cache(1000);
  cache.Insert({1, 0, 0, 1, 1}, Sized(1));
  EXPECT_EQ(cache.Find({2, 0, 0, 1, 1}), nullptr);
  EXPECT_EQ(cache.Find({1, 1, 0, 1, 1}), nullptr);
  EXPECT_EQ(cache.Find({1, 0, 1, 1, 1}), nullptr);
  EXPECT_EQ(cache.Find({1, 0, 0, 2, 1}), nullptr);
  EXPECT_EQ(cache.Find({1, 0, 0, 1, 2}), nullptr);
}

TEST(ContentCacheTest, TheLessRecentlyUsedHalfOfWhatNobodyReadsOnADeviceMakesRoom) {
  ContentCache cache(1000);
  const auto there = [&](int64_t reference) {
    return cache.Find({1, 0, 0, reference, 0}) != nullptr;
  };
  for (int64_t reference = 1; reference <= 6; ++reference) {
    auto block = std::make_shared<ContentBlock>();
    block->record = rpc::Payload(std::string(100, 'x'));
    block->on_device = reference != 5;
    cache.Insert({1, 0, 0, reference, 0}, std::move(block));
  }
  const auto read = cache.Find({1, 0, 0, 6, 0});
  EXPECT_TRUE(there(1));  // now 2 and 3 are the older ones of 1, 2, 3 and 4
  EXPECT_EQ(cache.DropHalf(), 200u);
  for (const int64_t kept : {1, 4, 5, 6}) EXPECT_TRUE(there(kept)) << kept;
  for (const int64_t gone : {2, 3}) EXPECT_FALSE(there(gone)) << gone;
  EXPECT_EQ(cache.DropHalf(), 100u);
  EXPECT_EQ(cache.DropHalf(), 100u);
  EXPECT_EQ(cache.DropHalf(), 0u);
  EXPECT_TRUE(there(5) && there(6));
}

TEST(ContentCacheTest, TakesNothingLargerThanItself) {
  ContentCache cache(10);
  cache.Insert({1, 0, 0, 1, 0}, Sized(5));
  cache.Insert({1, 0, 0, 2, 0}, Sized(11));
  EXPECT_EQ(cache.Find({1, 0, 0, 2, 0}), nullptr);
  EXPECT_NE(cache.Find({1, 0, 0, 1, 0}), nullptr);
}

}  // namespace
}  // namespace msa::compute_node

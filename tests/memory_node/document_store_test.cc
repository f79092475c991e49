// The contract of document_store.h on both stores.
#include "memory_node/document_store.h"

#include <atomic>
#include <thread>

#include "common/strings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/memory_node/temp_folder.h"

namespace msa::memory_node {
namespace {

using ::testing::ElementsAre;
constexpr auto kNormal = DocumentStore::Priority::kNormal;

class DocumentStoreTest : public ::testing::TestWithParam<bool> {
 protected:
  DocumentStoreTest() {
    if (!GetParam()) {
      store_ = MakeMemoryStore();
      return;
    }
    auto store = OpenRocksDbStore({.path = folder_.path()});
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  std::string Get(Table table, std::string_view key) {
    auto value = store_->Get(table, key);
    return value.ok() ? std::string(value->view()) : std::string(value.status().message());
  }
  std::vector<std::string> Keys(Table table, std::string_view from) {
    std::vector<std::string> keys;
    auto cursor = store_->NewCursor(table, true);
    for (cursor->Seek(from); cursor->Valid(); cursor->Next()) keys.emplace_back(cursor->key());
    EXPECT_TRUE(cursor->status().ok());
    return keys;
  }

  testing::TempFolder folder_;
  std::unique_ptr<DocumentStore> store_;
};

TEST_P(DocumentStoreTest, ChangesApplyTogetherAndInOrder) {
  WriteSet writes;
  writes.Put(Table::kMeta, "a", "1");
  writes.Put(Table::kMeta, "a", "2");
  writes.PutPieces(Table::kContent, "a", {"pie", "", "ces"});
  writes.Put(Table::kText, "b", "gone");
  writes.Delete(Table::kText, "b");
  writes.Put(Table::kRouting, std::string("\xff\0\x01", 3), "");
  ASSERT_TRUE(store_->Commit(writes, kNormal).ok());
  EXPECT_EQ(Get(Table::kMeta, "a"), "2");
  EXPECT_EQ(Get(Table::kContent, "a"), "pieces");
  EXPECT_TRUE(absl::IsNotFound(store_->Get(Table::kText, "b").status()));
  EXPECT_EQ(store_->Get(Table::kRouting, std::string("\xff\0\x01", 3))->size(), 0u);
  EXPECT_TRUE(absl::IsNotFound(store_->Get(Table::kRouting, "a").status()));
}

TEST_P(DocumentStoreTest, CursorsGoInByteOrderOverWhatWasThere) {
  WriteSet writes;
  for (const char* key : {"b", "a", "\x80", "ab"}) writes.Put(Table::kText, key, key);
  ASSERT_TRUE(store_->Commit(writes, kNormal).ok());
  auto cursor = store_->NewCursor(Table::kText, false);
  WriteSet later;
  later.Put(Table::kText, "c", "new");
  later.Delete(Table::kText, "b");
  ASSERT_TRUE(store_->Commit(later, kNormal).ok());
  cursor->Seek("aa");
  ASSERT_TRUE(cursor->Valid());
  EXPECT_EQ(cursor->key(), "ab");
  cursor->Next();
  EXPECT_EQ(cursor->value(), "b");
  EXPECT_THAT(Keys(Table::kText, ""), ElementsAre("a", "ab", "c", "\x80"));
}

TEST_P(DocumentStoreTest, RangesAreDeletedUpToTheirEnd) {
  WriteSet writes;
  for (const char* key : {"a", "b", "b1", "c"}) writes.Put(Table::kContent, key, key);
  writes.DeleteRange(Table::kContent, "b", "c");
  ASSERT_TRUE(store_->Commit(writes, kNormal).ok());
  EXPECT_THAT(Keys(Table::kContent, ""), ElementsAre("a", "c"));
  std::atomic<bool> cancelled = true;
  const absl::Status given_up = store_->Reclaim(Table::kContent, "b", "c", &cancelled);
  EXPECT_TRUE(absl::IsCancelled(given_up)) << given_up;
  cancelled = false;
  EXPECT_TRUE(store_->Reclaim(Table::kContent, "b", "c", &cancelled).ok());
  EXPECT_THAT(Keys(Table::kContent, ""), ElementsAre("a", "c"));
}

TEST_P(DocumentStoreTest, AValueOutlivesItsDeletionAndItsStore) {
  const std::string large(1 << 20, 'v');
  WriteSet writes;
  writes.PutPieces(Table::kContent, "k", {large});
  ASSERT_TRUE(store_->Commit(writes, kNormal).ok());
  const rpc::Payload value = *store_->Get(Table::kContent, "k");
  WriteSet deletion;
  deletion.Delete(Table::kContent, "k");
  ASSERT_TRUE(store_->Commit(deletion, kNormal).ok());
  store_.reset();
  EXPECT_EQ(value.view(), large);
}

TEST_P(DocumentStoreTest, ConcurrentCommitsAllArrive) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        WriteSet writes;
        writes.Put(Table::kMeta, StrCat(t, "/", i), StrCat(i));
        EXPECT_TRUE(store_->Commit(writes, kNormal).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Keys(Table::kMeta, "").size(), 200u);
  EXPECT_GT(store_->DiskBytes(), 0);
}

TEST(StoreUsage, AStoreInMemoryHasNone) { EXPECT_FALSE(MakeMemoryStore()->Usage().has_value()); }

class RocksDbUsageTest : public ::testing::Test {
 protected:
  // Closes what is open: what was written goes to files.
  void Open(int64_t write_buffer_bytes = 64 << 20) {
    store_.reset();
    auto store =
        OpenRocksDbStore({.path = folder_.path(), .write_buffer_bytes = write_buffer_bytes});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  void Put(Table table, std::string key, const std::string& value) {
    WriteSet writes;
    writes.PutPieces(table, std::move(key), {value});
    ASSERT_TRUE(store_->Commit(writes, kNormal).ok());
  }
  StoreUsage::OfTable UsageOf(Table table) {
    return store_->Usage()->tables[static_cast<int>(table)];
  }

  testing::TempFolder folder_;
  std::unique_ptr<DocumentStore> store_;
};

TEST_F(RocksDbUsageTest, TellsWhereTheBytesOfEachTableAre) {
  const int64_t large = 1 << 20;
  Open();
  Put(Table::kRouting, "k", std::string(large, 'r'));
  EXPECT_GE(UsageOf(Table::kRouting).memtable_bytes, large);
  EXPECT_LT(UsageOf(Table::kText).memtable_bytes, large);
  EXPECT_EQ(UsageOf(Table::kRouting).sst_bytes, 0);
  Put(Table::kRouting, "small", std::string(10000, 's'));
  Put(Table::kContent, "k", std::string(large, 'c'));
  Open();
  EXPECT_GE(UsageOf(Table::kRouting).sst_bytes, large);
  EXPECT_GE(UsageOf(Table::kRouting).live_data_bytes, large);
  EXPECT_EQ(UsageOf(Table::kRouting).level0_files, 1);
  EXPECT_EQ(UsageOf(Table::kRouting).blob_bytes, 0);
  EXPECT_LT(UsageOf(Table::kRouting).memtable_bytes, large);
  EXPECT_GE(UsageOf(Table::kContent).blob_bytes, large);  // values of its size are kept apart
  EXPECT_LT(UsageOf(Table::kContent).sst_bytes, large);
  EXPECT_EQ(UsageOf(Table::kText).level0_files, 0);
  const int64_t cached = store_->Usage()->block_cache_bytes;
  ASSERT_TRUE(store_->Get(Table::kRouting, "small").ok());
  EXPECT_GE(store_->Usage()->block_cache_bytes, cached + 10000);
  EXPECT_EQ(store_->Usage()->write_stopped, 0);
  EXPECT_EQ(store_->Usage()->delayed_write_bytes_per_second, 0);
  EXPECT_EQ(store_->Usage()->background_errors, 0);
}

// Two memtables of 64 KiB, faster filled than flushed.
TEST_F(RocksDbUsageTest, CountsHowOftenWritersHadToWait) {
  Open(64 << 10);
  EXPECT_EQ(store_->Usage()->times_stopped, 0);
  const std::string value(64 << 10, 'v');
  int writes = 0;
  while (store_->Usage()->times_stopped == 0 && writes < 5000) {
    Put(Table::kRouting, StrCat(writes++), value);
  }
  EXPECT_GT(store_->Usage()->times_stopped, 0);
}

INSTANTIATE_TEST_SUITE_P(Stores, DocumentStoreTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "rocksdb" : "memory"; });

}  // namespace
}  // namespace msa::memory_node

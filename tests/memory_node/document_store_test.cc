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

INSTANTIATE_TEST_SUITE_P(Stores, DocumentStoreTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "rocksdb" : "memory"; });

}  // namespace
}  // namespace msa::memory_node

// The contract of rpc/memory_shard.h on the local shard, over both stores and both backends.
#include <atomic>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "kernels/backend.h"
#include "kernels/forwarding_backend.h"
#include "kernels/group_backend.h"
#include "memory_node/shard.h"
#include "tests/memory_node/borrowed_store.h"
#include "tests/memory_node/temp_folder.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/memory_shard_contract.h"

namespace msa::memory_node {
namespace {

using ::testing::HasSubstr;

class LocalUnderTest : public testing::ShardUnderTest {
 public:
  // `members` backends of the name as one.
  explicit LocalUnderTest(const char* backend, int members = 1) {
    std::vector<const kernels::Backend*> borrowed;
    for (int i = 0; i < members; ++i) {
      backends_.push_back(*kernels::MakeBackend(backend, /*num_threads=*/2));
      borrowed.push_back(backends_.back().get());
    }
    if (members > 1) backends_.push_back(kernels::MakeGroupBackend(borrowed, nullptr));
    options_.background = false;
  }

  rpc::MemoryShard& shard() override { return *shard_; }
  bool AdvanceClock(absl::Duration by) override {
    now_ += by;
    return true;
  }
  bool RunMaintenance() override {
    shard_->RunMaintenance();
    return true;
  }

 protected:
  void Start(std::unique_ptr<DocumentStore> store) {
    options_.now = [this] { return now_; };
    options_.index.min_segment_chunks = 32;  // small: many segments, much to compact
    auto shard = LocalShard::Open(std::move(store), backends_.back().get(), options_);
    ASSERT_TRUE(shard.ok()) << shard.status();
    shard_ = *std::move(shard);
  }

  std::vector<std::unique_ptr<kernels::Backend>> backends_;  // the last is the shard's
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  ShardOptions options_;
  std::unique_ptr<LocalShard> shard_;
};

class OverMemory : public LocalUnderTest {
 public:
  OverMemory() : LocalUnderTest("reference") { Restart(); }
  ~OverMemory() override { shard_.reset(); }
  bool Restart() override {
    shard_.reset();
    Start(std::make_unique<BorrowedStore>(store_.get()));
    return true;
  }

 private:
  const std::unique_ptr<DocumentStore> store_ = MakeMemoryStore();
};

class OverRocksDb : public LocalUnderTest {
 public:
  explicit OverRocksDb(int members = 1) : LocalUnderTest("cpu", members) { StartOnFolder(); }
  bool Restart() override {
    shard_.reset();
    StartOnFolder();
    return true;
  }

 private:
  void StartOnFolder() {
    auto store = OpenRocksDbStore({.path = folder_.path()});
    ASSERT_TRUE(store.ok()) << store.status();
    Start(*std::move(store));
  }
  testing::TempFolder folder_;
};

// A store in memory that outlives the shards over it: one opened later is one started again.
class StoreOfShards {
 public:
  DocumentStore* store() const { return store_.get(); }

  std::unique_ptr<LocalShard> Open() const {
    ShardOptions options;
    options.background = false;
    return *LocalShard::Open(std::make_unique<BorrowedStore>(store()), backend_.get(), options);
  }

  void Replace(const std::string& key, std::string record) const {
    WriteSet writes;
    writes.Put(Table::kSystem, key, std::move(record));
    ASSERT_TRUE(store_->Commit(writes, DocumentStore::Priority::kNormal).ok());
  }

 private:
  const std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("reference", 1);
  const std::unique_ptr<DocumentStore> store_ = MakeMemoryStore();
};

TEST(TakenReferences, GoWithTheirBank) {
  const rpc::BankSpec bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  const StoreOfShards shards;
  DocumentStore* const store = shards.store();
  const auto shard = shards.Open();
  ASSERT_TRUE(shard->CreateBank({}, bank).ok());
  ASSERT_TRUE(shard->TakeReferences({}, bank.name, bank.uid, 0, 1).ok());
  EXPECT_TRUE(store->Get(Table::kSystem, TakenReferencesKey(bank.uid)).ok());
  ASSERT_TRUE(shard->DeleteBank({}, bank.name).ok());
  shard->RunMaintenance();
  EXPECT_TRUE(absl::IsNotFound(store->Get(Table::kSystem, TakenReferencesKey(bank.uid)).status()));
}

// What was taken and is not stored is known from it alone.
TEST(TakenReferences, ADamagedRecordGivesNoneAndIsNamed) {
  const rpc::BankSpec bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  const StoreOfShards shards;
  DocumentStore* const store = shards.store();
  ASSERT_TRUE(shards.Open()->CreateBank({}, bank).ok());
  ASSERT_EQ(*shards.Open()->TakeReferences({}, bank.name, bank.uid, 0, 7), 0);
  const std::string whole(store->Get(Table::kSystem, TakenReferencesKey(bank.uid))->view());
  std::string flipped = whole;
  flipped[0] ^= 4;
  for (const std::string& record : {flipped, whole.substr(1), std::string()}) {
    shards.Replace(TakenReferencesKey(bank.uid), record);
    const auto shard = shards.Open();
    for (int64_t at_least : {0, 1000}) {
      const absl::Status status =
          shard->TakeReferences({}, bank.name, bank.uid, at_least, 1).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("'" + bank.name + "'"));
      EXPECT_THAT(std::string(status.message()), HasSubstr("Make another bank"));
    }
    EXPECT_EQ(shard->Stats({}, bank.name)->corrupt_records, 1);
    EXPECT_TRUE(shard->OpenSnapshot({}, bank.name, absl::Minutes(1)).ok());
  }
  shards.Replace(TakenReferencesKey(bank.uid), whole);
  EXPECT_EQ(*shards.Open()->TakeReferences({}, bank.name, bank.uid, 0, 1), 7);
}

// Calls `before_text` once, before a text is read.
class StoppingStore : public BorrowedStore {
 public:
  using BorrowedStore::BorrowedStore;
  absl::StatusOr<rpc::Payload> Get(Table table, std::string_view key) override {
    if (table == Table::kText && before_text) std::exchange(before_text, nullptr)();
    return BorrowedStore::Get(table, key);
  }
  std::function<void()> before_text;
};

TEST(DeletedBanks, ADocumentReadAtTheSameTimeIsNotDamaged) {
  const rpc::BankSpec bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  const auto store = MakeMemoryStore();
  auto stopping = std::make_unique<StoppingStore>(store.get());
  std::function<void()>& before_text = stopping->before_text;
  const auto backend = *kernels::MakeBackend("reference", 1);
  ShardOptions options;
  options.background = false;
  const auto shard = *LocalShard::Open(std::move(stopping), backend.get(), options);
  ASSERT_TRUE(shard->CreateBank({}, bank).ok());
  ASSERT_TRUE(shard->PutDocument({}, testing::MakeDocument(bank, {.id = "d"})).ok());
  before_text = [&] {
    EXPECT_TRUE(shard->DeleteBank({}, bank.name).ok());
    shard->RunMaintenance();
  };
  const absl::Status status = shard->GetDocument({}, bank.name, "d").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
}

TEST(LatePuts, DoNotBringADeletedDocumentBack) {
  const rpc::BankSpec bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  const StoreOfShards shards;
  auto shard = shards.Open();
  ASSERT_TRUE(shard->CreateBank({}, bank).ok());
  const auto put = [&](int64_t reference) {
    return shard->PutDocument(
        {}, testing::MakeDocument(bank, {.id = "d", .first_reference = reference}));
  };
  ASSERT_TRUE(put(7).ok());
  ASSERT_TRUE(shard->DeleteDocument({}, bank.name, "d").ok());
  for (const bool swept : {false, true}) {
    if (swept) shard->RunMaintenance();
    const absl::Status late = put(7).status();
    EXPECT_EQ(late.code(), absl::StatusCode::kInvalidArgument) << late;
    EXPECT_THAT(std::string(late.message()), HasSubstr("'d' of bank '" + bank.name + "' had"));
    EXPECT_TRUE(absl::IsNotFound(shard->GetDocument({}, bank.name, "d").status()));
    shard = shards.Open();
  }
  EXPECT_EQ(put(8)->revision, 2u);
}

// Gives space back as long as it is let.
class ReclaimingStore : public BorrowedStore {
 public:
  using BorrowedStore::BorrowedStore;
  absl::Status Reclaim(Table, std::string_view, std::string_view,
                       std::atomic<bool>* cancelled) override {
    if (!began.HasBeenNotified()) began.Notify();
    const absl::Time patience = absl::Now() + absl::Seconds(20);
    while (!*cancelled && absl::Now() < patience) std::this_thread::yield();
    EXPECT_TRUE(*cancelled) << "a stop waits for it";
    return absl::CancelledError("stopping");
  }
  absl::Notification began;
};

TEST(DeletedBanks, AStopDoesNotWaitForTheirSpaceAndTheNextStartGoesOn) {
  const rpc::BankSpec bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  const StoreOfShards shards;
  DocumentStore* const store = shards.store();
  auto reclaiming = std::make_unique<ReclaimingStore>(store);
  absl::Notification& began = reclaiming->began;
  const auto backend = *kernels::MakeBackend("reference", 1);
  ShardOptions options;
  options.maintenance_interval = absl::Milliseconds(1);
  auto shard = *LocalShard::Open(std::move(reclaiming), backend.get(), options);
  ASSERT_TRUE(shard->CreateBank({}, bank).ok());
  ASSERT_TRUE(shard->DeleteBank({}, bank.name).ok());
  began.WaitForNotification();
  shard.reset();
  EXPECT_TRUE(store->Get(Table::kSystem, DeletedBankKey(bank.uid)).ok());
  EXPECT_FALSE(store->Get(Table::kSystem, SweptBankKey(bank.uid)).ok());
  shards.Open()->RunMaintenance();
  EXPECT_FALSE(store->Get(Table::kSystem, DeletedBankKey(bank.uid)).ok());
  EXPECT_TRUE(store->Get(Table::kSystem, SweptBankKey(bank.uid)).ok());
}

TEST(WeightsRecord, ADamagedOneIsNoneAndItGoesWithItsBank) {
  rpc::BankSpec bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  bank.weights_dtype = DType::kBFloat16;
  const StoreOfShards shards;
  DocumentStore* const store = shards.store();
  ASSERT_TRUE(shards.Open()->CreateBank({}, bank).ok());
  EXPECT_EQ(shards.Open()->ListBanks({})->front().spec.weights_dtype, DType::kBFloat16);
  std::string record(store->Get(Table::kSystem, WeightsKey(bank.uid))->view());
  record.back() ^= 1;
  shards.Replace(WeightsKey(bank.uid), record);
  const auto shard = shards.Open();
  EXPECT_FALSE(shard->ListBanks({})->front().spec.weights_dtype.has_value());
  EXPECT_EQ(shard->Stats({}, bank.name)->corrupt_records, 1);
  ASSERT_TRUE(shard->DeleteBank({}, bank.name).ok());
  shard->RunMaintenance();
  EXPECT_TRUE(absl::IsNotFound(store->Get(Table::kSystem, WeightsKey(bank.uid)).status()));
}

TEST(CoarseRecords, ADamagedOneCostsTheCodesAndNoAnswer) {
  rpc::BankSpec bank = testing::TestBank(DType::kBFloat16, DType::kBFloat16);
  bank.routing.head_dim = 32;
  const StoreOfShards shards;
  DocumentStore* const store = shards.store();
  {
    const auto shard = shards.Open();
    ASSERT_TRUE(shard->CreateBank({}, bank).ok());
    ASSERT_TRUE(shard->PutDocument({}, testing::MakeDocument(bank, {.id = "d"})).ok());
    ASSERT_TRUE(shard->SetCoarse({}, bank.name, {.codes = true, .candidates = 9}).ok());
  }
  std::string record(store->Get(Table::kSystem, CoarseKey(bank.uid))->view());
  record.back() ^= 1;
  shards.Replace(CoarseKey(bank.uid), record);
  const auto shard = shards.Open();
  const auto stats = shard->Stats({}, bank.name);
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->coarse, rpc::CoarseState());
  EXPECT_EQ(stats->code_bytes, 0);
  EXPECT_EQ(stats->corrupt_records, 1);
  const auto snapshot = shard->OpenSnapshot({}, bank.name, absl::Minutes(1));
  const auto routed =
      shard->Route({}, {bank.name, snapshot->id, 0, 3, 5, testing::MakeQueries(bank, 1, 1)});
  ASSERT_TRUE(routed.ok());
  EXPECT_EQ(routed->size(), 1u);
}

TEST(LocalShardStats, SaysWhatNoGpuHadRoomFor) {
  class Full : public kernels::ForwardingBackend {
   public:
    using ForwardingBackend::ForwardingBackend;
    int64_t host_tier_bytes() const override { return 12; }
  };
  const auto cpu = *kernels::MakeBackend("cpu", 1);
  const Full backend(*cpu);
  const auto shard = *LocalShard::Open(MakeMemoryStore(), &backend, {});
  const rpc::BankSpec bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  ASSERT_TRUE(shard->CreateBank({}, bank).ok());
  EXPECT_EQ(shard->Stats({}, bank.name)->host_tier_bytes, 12);
}

// Stops where codes are made, till it may go on.
class StoppingBackend : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  void EncodeCoarse(const kernels::KeySegment& segment, int64_t key_width, int64_t first_chunk,
                    uint8_t* codes, float* scales) const override {
    if (!began.HasBeenNotified()) began.Notify();
    go.WaitForNotification();
    ForwardingBackend::EncodeCoarse(segment, key_width, first_chunk, codes, scales);
  }
  mutable absl::Notification began, go;
};

TEST(CoarseRecords, BanksComeAndGoWhileCodesAreMade) {
  rpc::BankSpec coded = testing::TestBank(DType::kBFloat16, DType::kBFloat16, "coded", 1);
  coded.routing.head_dim = 32;
  const rpc::BankSpec other = testing::TestBank(DType::kBFloat16, DType::kBFloat16, "other", 2);
  const auto reference = *kernels::MakeBackend("reference", 1);
  const StoppingBackend backend(*reference);
  const auto store = MakeMemoryStore();
  ShardOptions options;
  options.background = false;
  const auto shard =
      *LocalShard::Open(std::make_unique<BorrowedStore>(store.get()), &backend, options);
  ASSERT_TRUE(shard->CreateBank({}, coded).ok());
  ASSERT_TRUE(shard->PutDocument({}, testing::MakeDocument(coded, {.id = "d"})).ok());
  std::thread maker([&] {
    const absl::Status status = shard->SetCoarse({}, "coded", {.codes = true, .candidates = 9});
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
  });
  backend.began.WaitForNotification();
  absl::Notification over;
  std::thread others([&] {
    EXPECT_TRUE(shard->CreateBank({}, other).ok());
    EXPECT_TRUE(shard->DeleteBank({}, "other").ok());
    EXPECT_TRUE(shard->DeleteBank({}, "coded").ok());
    shard->RunMaintenance();
    over.Notify();
  });
  EXPECT_TRUE(over.WaitForNotificationWithTimeout(absl::Seconds(20))) << "waits for the codes";
  backend.go.Notify();
  maker.join();
  others.join();
  for (int table = 0; table < kNumTables; ++table) {
    const auto cursor = store->NewCursor(static_cast<Table>(table), /*sequential=*/true);
    for (cursor->Seek(""); cursor->Valid(); cursor->Next()) {
      if (cursor->key() == SweptBankKey(1) || cursor->key() == SweptBankKey(2)) continue;
      ADD_FAILURE() << "left of a deleted bank: " << cursor->key();
    }
  }
}

}  // namespace
}  // namespace msa::memory_node

namespace msa::testing {

INSTANTIATE_TEST_SUITE_P(
    Local, MemoryShardContract,
    ::testing::Values(
        NamedShardFactory{"memory", [] { return std::make_unique<memory_node::OverMemory>(); }},
        NamedShardFactory{"rocksdb", [] { return std::make_unique<memory_node::OverRocksDb>(); }},
        NamedShardFactory{"rocksdb_group_of_three",
                          [] { return std::make_unique<memory_node::OverRocksDb>(3); }}),
    FactoryName);

}  // namespace msa::testing

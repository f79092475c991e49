// Damaged stores: a flipped byte anywhere, a torn log, a hole in a log. What is served is right,
// what is not is named.
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "common/log.h"
#include "gmock/gmock.h"
#include "memory_node/backups.h"
#include "memory_node/put_batch.h"
#include "memory_node/record_format.h"
#include "tests/memory_node/store_fixture.h"

namespace msa::memory_node {
namespace {

using ::testing::HasSubstr;

class DamageTest : public testing::StoreFixture {
 protected:
  static constexpr int kDocuments = 24;

  // The documents in table and blob files: the log is replayed into them at the second start.
  void FillFiles() {
    {
      auto shard = Open(data_);
      ASSERT_TRUE(shard.ok() && (*shard)->CreateBank({}, bank_).ok());
      for (int i = 0; i < kDocuments; ++i) ASSERT_TRUE(Put(**shard, i).ok());
    }
    ASSERT_TRUE(Open(data_).ok());
  }

  struct Outcome {
    bool opened = false;
    int damaged = 0;
  };

  // Every document exactly, or DATA_LOSS with its name; routed to if its keys are whole.
  Outcome CheckImage() {
    auto shard = Open(image_);
    if (!shard.ok()) {
      EXPECT_EQ(shard.status().code(), absl::StatusCode::kDataLoss) << shard.status();
      return {};
    }
    auto snapshot = (*shard)->OpenSnapshot({}, bank_.name, absl::Minutes(1));
    if (!snapshot.ok()) {
      // Only where the bank's own record is damaged.
      EXPECT_GT((*shard)->damaged_banks(), 0) << snapshot.status();
      return {};
    }
    Outcome outcome{.opened = true};
    std::set<int64_t> whole;
    for (int i = 0; i < kDocuments; ++i) {
      const absl::Status status = Check(**shard, snapshot->id, i);
      if (status.ok()) {
        whole.insert({2 * i, 2 * i + 1});
        continue;
      }
      ++outcome.damaged;
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(StrCat("'d", i, "'")));
    }
    CheckRouted(**shard, snapshot->id, whole);
    EXPECT_EQ(outcome.damaged > 0, (*shard)->Stats({}, bank_.name)->corrupt_records > 0);
    // A damaged document can be put again, others go on.
    const absl::Status put = Put(**shard, kDocuments);
    EXPECT_TRUE(put.ok()) << put;
    return outcome;
  }

  void CheckRouted(LocalShard& shard, uint64_t snapshot, const std::set<int64_t>& whole) {
    const auto queries = testing::MakeQueries(bank_, 2, 5);
    auto routed = shard.Route({}, {bank_.name, snapshot, 0, 3, 1000, queries});
    ASSERT_TRUE(routed.ok()) << routed.status();
    std::set<int64_t> references;
    for (const auto& part : *routed) {
      const int64_t reference = part.scored.reference;
      references.insert(reference);
      const auto document = Document(static_cast<int>(reference / 2));
      EXPECT_EQ(part.scored.score,
                testing::OracleScore(bank_, document.parts[reference % 2], 1, queries));
    }
    EXPECT_TRUE(std::includes(references.begin(), references.end(), whole.begin(), whole.end()));
  }

  // By document: OK or not, of text and blocks.
  std::vector<bool> Whole(LocalShard& shard) {
    const auto snapshot = shard.OpenSnapshot({}, bank_.name, absl::Minutes(1));
    std::vector<bool> whole(kDocuments);
    for (int i = 0; snapshot.ok() && i < kDocuments; ++i) {
      whole[i] = Check(shard, snapshot->id, i).ok();
    }
    return whole;
  }

  // How many documents' own records a scan comes to before one that cannot be read. The keys of
  // `meta` ascend with the id.
  int64_t Listed(DocumentStore& store) {
    std::set<std::string> ids;
    for (int i = 0; i < kDocuments; ++i) ids.insert(StrCat("d", i));
    return std::distance(ids.begin(), std::find_if(ids.begin(), ids.end(), [&](const auto& id) {
                           return !store.Get(Table::kMeta, MetaKey(bank_.uid, id)).ok();
                         }));
  }

  // The image of a node killed now: a copy of the folder of an open store.
  void MakeCrashImage() {
    auto shard = Open(data_);
    ASSERT_TRUE(shard.ok() && (*shard)->CreateBank({}, bank_).ok());
    for (int i = 0; i < kDocuments; ++i) ASSERT_TRUE(Put(**shard, i).ok());
    Copy(data_, image_);
  }
};

// Whoever finds damage wants a copy of what is left, first of all.
TEST_F(DamageTest, ADamagedStoreIsBackedUpAsItIsServed) {
  FillFiles();
  std::vector<std::string> files = Files(data_, ".sst");
  for (const std::string& blob : Files(data_, ".blob")) files.push_back(blob);
  int damaged = 0;
  for (const std::string& file : files) {
    const std::string contents = Contents(file);
    for (size_t offset : {size_t{17}, contents.size() / 2, contents.size() - 1}) {
      SCOPED_TRACE(StrCat(file, " at ", offset));
      Copy(data_, image_);
      std::string flipped = contents;
      flipped[offset] ^= 0x10;
      Overwrite(image_ + file.substr(data_.size()), flipped);
      auto shard = Open(image_);
      if (!shard.ok()) continue;
      FolderBackups backups(&(*shard)->store(), image_, {});
      const auto made = backups.CreateBackup({}, "a");
      ASSERT_TRUE(made.ok()) << made.status();
      EXPECT_EQ(made->front().num_documents, Listed((*shard)->store()));
      const std::vector<bool> served = Whole(**shard);
      damaged += std::count(served.begin(), served.end(), false);
      auto copy = Open(made->front().path);
      ASSERT_TRUE(copy.ok()) << copy.status();
      EXPECT_EQ(Whole(**copy), served);
    }
  }
  EXPECT_GT(damaged, 0);
}

TEST_F(DamageTest, AFlippedByteIsNeverServed) {
  FillFiles();
  std::vector<std::string> files = Files(data_, ".sst");
  for (const std::string& blob : Files(data_, ".blob")) files.push_back(blob);
  ASSERT_GE(files.size(), 5u);  // a table each, and blobs
  int flips = 0, unopened = 0, with_damage = 0;
  for (const std::string& file : files) {
    const std::string contents = Contents(file);
    const size_t step = std::max<size_t>(contents.size() / 12, 1);
    std::set<size_t> offsets = {0, contents.size() - 1, contents.size() - 30};
    for (size_t offset = 17; offset < contents.size(); offset += step) offsets.insert(offset);
    for (size_t offset : offsets) {
      SCOPED_TRACE(StrCat(file, " at ", offset));
      Copy(data_, image_);
      std::string flipped = contents;
      flipped[offset] ^= 0x10;
      Overwrite(image_ + file.substr(data_.size()), flipped);
      const Outcome outcome = CheckImage();
      ++flips;
      unopened += !outcome.opened;
      with_damage += outcome.damaged > 0;
      if (HasFailure()) return;
    }
  }
  std::printf("%d flips: %d starts refused, %d with damaged documents, %d harmless\n", flips,
              unopened, with_damage, flips - unopened - with_damage);
  EXPECT_GT(with_damage, flips / 3);
}

TEST_F(DamageTest, ADamagedRecordIsNamedAndCanBeReplacedOrDeleted) {
  FillFiles();
  struct Case {
    Table table;
    std::string key;
    std::string id;
    bool at_start;  // found when the node starts
  };
  const Case cases[] = {
      {Table::kMeta, MetaKey(bank_.uid, "d1"), "d1", true},
      {Table::kText, TextKey(bank_.uid, 4), "d2", false},
      {Table::kRouting, BlockKey(bank_.uid, 7, 3), "d3", true},
      {Table::kContent, BlockKey(bank_.uid, 8, 5), "d4", false},
  };
  {
    auto store = OpenRocksDbStore({.path = data_});
    ASSERT_TRUE(store.ok());
    WriteSet writes;
    for (const Case& damaged : cases) {
      auto value = (*store)->Get(damaged.table, damaged.key);
      ASSERT_TRUE(value.ok()) << value.status();
      std::string bytes(value->view());
      bytes[bytes.size() / 2] ^= 1;
      writes.Put(damaged.table, damaged.key, bytes);
    }
    ASSERT_TRUE((*store)->Commit(writes, DocumentStore::Priority::kNormal).ok());
  }
  auto shard = Open(data_);
  ASSERT_TRUE(shard.ok()) << shard.status();
  EXPECT_EQ((*shard)->Stats({}, bank_.name)->corrupt_records, 2);
  const uint64_t snapshot = (*shard)->OpenSnapshot({}, bank_.name, absl::Minutes(1))->id;
  for (const Case& damaged : cases) {
    const int i = damaged.id[1] - '0';
    const absl::Status status = Check(**shard, snapshot, i);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << damaged.id;
    EXPECT_THAT(std::string(status.message()), HasSubstr(StrCat("'", damaged.id, "'")));
  }
  EXPECT_THAT(std::string(Check(**shard, snapshot, 4).message()), HasSubstr("layer 5"));
  EXPECT_GE((*shard)->Stats({}, bank_.name)->corrupt_records, 4);
  EXPECT_TRUE(Check(**shard, snapshot, 5).ok());
  // Replaced: whole again, one revision on.
  auto anew = Document(3);
  for (auto& part : anew.parts) part.reference += 1000;
  auto put = (*shard)->PutDocument({}, anew);
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(put->revision, 2u);
  EXPECT_TRUE((*shard)->GetDocument({}, bank_.name, "d3").ok());
  EXPECT_TRUE((*shard)->DeleteDocument({}, bank_.name, "d1").ok());
  EXPECT_TRUE(absl::IsNotFound((*shard)->GetDocument({}, bank_.name, "d1").status()));
  (*shard)->RunMaintenance();
  shard->reset();
  shard = Open(data_);
  ASSERT_TRUE(shard.ok());
  EXPECT_EQ((*shard)->Stats({}, bank_.name)->corrupt_records, 0);
  EXPECT_EQ((*shard)->Stats({}, bank_.name)->num_documents, kDocuments - 1);
}

// For machines as all other lines, where they asked for that.
TEST_F(DamageTest, DamageIsALineOfTheLog) {
  FillFiles();
  {
    auto store = OpenRocksDbStore({.path = data_});
    ASSERT_TRUE(store.ok());
    WriteSet writes;
    writes.Put(Table::kMeta, MetaKey(bank_.uid, "d1"), "damaged");
    writes.Put(Table::kText, TextKey(bank_.uid, 4), "damaged");
    ASSERT_TRUE((*store)->Commit(writes, DocumentStore::Priority::kNormal).ok());
  }
  ConfigureLogging({.level = LogLevel::kError, .json = true});
  ::testing::internal::CaptureStderr();
  const auto shard = Open(data_);
  const absl::Status read = (*shard)->GetDocument({}, bank_.name, "d2").status();
  std::istringstream log(::testing::internal::GetCapturedStderr());
  ConfigureLogging({});
  EXPECT_TRUE(absl::IsDataLoss(read)) << read;
  std::string at_start, when_read;
  ASSERT_TRUE(std::getline(log, at_start) && std::getline(log, when_read));
  for (const auto& [line, id] : {std::pair(at_start, "d1"), std::pair(when_read, "d2")}) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["level"], "error");
    EXPECT_THAT(json["message"].get<std::string>(), HasSubstr("a document is damaged"));
    EXPECT_EQ(json["bank"], bank_.name);
    EXPECT_EQ(json["id"], id);
  }
}

// Neither its record nor its text tells the revision: what comes after is counted on all the same.
TEST_F(DamageTest, ADeletedDocumentOfUnknownRevisionIsCountedOn) {
  const auto with_references = [this](int64_t first) {
    auto document = Document(1);
    for (auto& part : document.parts) part.reference = first++;
    return document;
  };
  FillFiles();
  uint64_t revision = 0;
  {
    auto shard = Open(data_);
    ASSERT_TRUE(shard.ok()) << shard.status();
    for (int64_t first : {1000, 1010, 1020}) {
      revision = (*shard)->PutDocument({}, with_references(first))->revision;
    }
    (*shard)->RunMaintenance();
  }
  EXPECT_EQ(revision, 4u);
  auto store = OpenRocksDbStore({.path = data_});
  ASSERT_TRUE(store.ok());
  WriteSet writes;
  writes.Put(Table::kMeta, MetaKey(bank_.uid, "d1"), "damaged");
  writes.Put(Table::kText, TextKey(bank_.uid, 1020), "damaged");
  ASSERT_TRUE((*store)->Commit(writes, DocumentStore::Priority::kNormal).ok());
  store->reset();
  {
    auto shard = Open(data_);
    ASSERT_TRUE(shard.ok()) << shard.status();
    const auto deleted = (*shard)->DeleteDocument({}, bank_.name, "d1");
    ASSERT_TRUE(deleted.ok()) << deleted.status();
    EXPECT_GE(*deleted, revision);
  }
  store = OpenRocksDbStore({.path = data_});
  ASSERT_TRUE(store.ok());
  EXPECT_EQ(ReadTombstone(**store, bank_, "d1")->max_reference, 1021);
  store->reset();
  auto shard = Open(data_);
  const auto put = (*shard)->PutDocument({}, with_references(1030));
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_GT(put->revision, revision);
}

TEST_F(DamageTest, ARecordInAnothersPlaceIsNotServed) {
  FillFiles();
  {
    auto store = OpenRocksDbStore({.path = data_});
    ASSERT_TRUE(store.ok());
    WriteSet writes;
    auto other = (*store)->Get(Table::kContent, BlockKey(bank_.uid, 2, 3));
    writes.PutPieces(Table::kContent, BlockKey(bank_.uid, 0, 3), {other->view()});
    auto keys = (*store)->Get(Table::kRouting, BlockKey(bank_.uid, 2, 3));
    writes.PutPieces(Table::kRouting, BlockKey(bank_.uid, 4, 3), {keys->view()});
    ASSERT_TRUE((*store)->Commit(writes, DocumentStore::Priority::kNormal).ok());
  }
  auto shard = Open(data_);
  ASSERT_TRUE(shard.ok());
  const uint64_t snapshot = (*shard)->OpenSnapshot({}, bank_.name, absl::Minutes(1))->id;
  const absl::Status moved = Check(**shard, snapshot, 0);
  EXPECT_TRUE(absl::IsDataLoss(moved));
  EXPECT_THAT(std::string(moved.message()), HasSubstr("reference 2 instead of 0"));
  EXPECT_TRUE(absl::IsDataLoss(Check(**shard, snapshot, 2)));
  EXPECT_TRUE(Check(**shard, snapshot, 1).ok());
}

TEST_F(DamageTest, ATornLastRecordIsDroppedAndNothingElse) {
  MakeCrashImage();
  const std::string log = Files(image_, ".log").back();
  const std::string contents = Contents(log);
  for (size_t torn : {1, 100, 3000}) {
    Overwrite(log, contents.substr(0, contents.size() - torn));
    Copy(image_, data_ + "2");
    auto shard = Open(data_ + "2");
    ASSERT_TRUE(shard.ok()) << shard.status();
    const uint64_t snapshot = (*shard)->OpenSnapshot({}, bank_.name, absl::Minutes(1))->id;
    for (int i = 0; i < kDocuments - 1; ++i) EXPECT_TRUE(Check(**shard, snapshot, i).ok()) << i;
    EXPECT_TRUE(absl::IsNotFound(Check(**shard, snapshot, kDocuments - 1)));
    EXPECT_EQ((*shard)->Stats({}, bank_.name)->corrupt_records, 0);
  }
}

TEST_F(DamageTest, DamageInsideALogIsReported) {
  MakeCrashImage();
  const std::string log = Files(image_, ".log").back();
  const std::string contents = Contents(log);
  for (size_t at : {contents.size() / 5, contents.size() / 2, contents.size() * 3 / 4}) {
    std::string flipped = contents;
    flipped[at] ^= 1;
    Overwrite(log, flipped);
    const auto shard = Open(image_);
    EXPECT_EQ(shard.status().code(), absl::StatusCode::kDataLoss) << shard.status();
    EXPECT_THAT(std::string(shard.status().message()), HasSubstr(image_));
  }
  Overwrite(log, contents);
  EXPECT_TRUE(Open(image_).ok());
}

TEST_F(DamageTest, AHoleInALogIsReported) {
  MakeCrashImage();
  const std::string log = Files(image_, ".log").back();
  const std::string contents = Contents(log);
  constexpr size_t kPage = 32 << 10;  // a block of RocksDB's log
  for (size_t page = 1; (page + 2) * kPage < contents.size(); ++page) {
    std::string hole = contents;
    hole.replace(page * kPage, kPage, kPage, '\0');
    Overwrite(log, hole);
    const auto shard = Open(image_);
    EXPECT_EQ(shard.status().code(), absl::StatusCode::kDataLoss) << page << shard.status();
  }
}

// Records that fill pages exactly: a page that reads as zeroes cuts none in two, and RocksDB alone
// would pass over it.
TEST_F(DamageTest, AMissingPageBetweenWholeRecordsIsReported) {
  constexpr size_t kPage = 32 << 10;
  constexpr size_t kOverhead = 7 + 12 + 3 + 1 + 3;  // log, batch and entry headers, key, length
  {
    auto store = OpenRocksDbStore({.path = data_});
    ASSERT_TRUE(store.ok());
    for (int record = 0; record < 4; ++record) {
      const size_t used = Contents(Files(data_, ".log").back()).size() % kPage;
      WriteSet writes;
      writes.Put(Table::kMeta, "k", std::string(kPage - used - kOverhead, 'v'));
      ASSERT_TRUE((*store)->Commit(writes, DocumentStore::Priority::kNormal).ok());
    }
    Copy(data_, image_);
  }
  const std::string log = Files(image_, ".log").back();
  std::string hole = Contents(log);
  ASSERT_EQ(hole.size(), 4 * kPage);
  EXPECT_TRUE(OpenRocksDbStore({.path = data_}).ok());
  hole.replace(kPage, kPage, kPage, '\0');
  Overwrite(log, hole);
  const absl::Status status = OpenRocksDbStore({.path = image_}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("records are missing"));
}

}  // namespace
}  // namespace msa::memory_node

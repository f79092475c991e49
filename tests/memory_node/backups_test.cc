// Copies of a folder that is written to meanwhile, opened as a server would open them.
#include "memory_node/backups.h"

#include <atomic>
#include <map>
#include <set>
#include <thread>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "memory_node/data_folder.h"
#include "tests/memory_node/borrowed_store.h"
#include "tests/memory_node/store_fixture.h"

namespace msa::memory_node {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Code = absl::StatusCode;
namespace fs = std::filesystem;

// Of one writer: puts document after document, and deletes each once it has put so many more. What
// is there after any number of its steps can be told.
class Writer {
 public:
  static constexpr int kKept = 20;

  explicit Writer(int number) : first_(100'000 * number) {}

  // Step 2n puts document n, step 2n + 1 deletes document n - kKept, if that is one.
  template <class Put, class Delete>
  void Step(const Put& put, const Delete& remove) {
    const int step = done_, n = step / 2;
    if (step % 2 == 0) {
      put(first_ + n);
    } else if (n >= kKept) {
      remove(first_ + n - kKept);
    }
    ++done_;
  }
  // Acknowledged; one more may be under way.
  int done() const { return done_; }
  std::set<int> After(int steps) const {
    std::set<int> documents;
    for (int step = 0; step < steps; ++step) {
      const int n = step / 2;
      if (step % 2 == 0) documents.insert(first_ + n);
      if (step % 2 == 1) documents.erase(first_ + n - kKept);
    }
    return documents;
  }
  bool Owns(int document) const { return document / 100'000 == first_ / 100'000; }

 private:
  const int first_;
  std::atomic<int> done_ = 0;
};

// Copies and then fails, or leaves what cannot be opened.
class FailingStore : public BorrowedStore {
 public:
  using BorrowedStore::BorrowedStore;
  absl::Status CopyTo(const std::string& folder) override {
    const absl::Status copied = BorrowedStore::CopyTo(folder);
    EXPECT_TRUE(copied.ok()) << copied;
    copied_ = true;
    if (unreadable_) return fs::remove(folder + "/CURRENT") ? absl::OkStatus() : copied;
    fs::rename(folder, folder + ".tmp");
    return absl::ResourceExhaustedError("the disk is full");
  }
  bool unreadable_ = false;
  std::atomic<bool> copied_ = false;
};

// Copies when it is told to.
class WaitingStore : public BorrowedStore {
 public:
  using BorrowedStore::BorrowedStore;
  absl::Status CopyTo(const std::string& folder) override {
    asked_.Notify();
    EXPECT_TRUE(go_on_.WaitForNotificationWithTimeout(absl::Seconds(20)));
    return BorrowedStore::CopyTo(folder);
  }
  absl::Notification asked_, go_on_;
};

class BackupsTest : public testing::StoreFixture {
 protected:
  BackupsTest() {
    auto shard = Open(data_);
    EXPECT_TRUE(shard.ok()) << shard.status();
    shard_ = *std::move(shard);
    EXPECT_TRUE(shard_->CreateBank({}, bank_).ok());
  }

  FolderBackups Backups() { return FolderBackups(&shard_->store(), data_, {"place.json"}); }
  rpc::Backup Create(FolderBackups& backups, const std::string& name) {
    const auto made = backups.CreateBackup({}, name);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() && made->size() == 1 ? made->front() : rpc::Backup();
  }
  void Delete(memory_node::LocalShard& shard, int i) {
    const auto deleted = shard.DeleteDocument({}, bank_.name, StrCat("d", i));
    EXPECT_TRUE(deleted.ok()) << i << ": " << deleted.status();
  }
  std::vector<std::string> NamesIn(const std::string& folder) {
    std::vector<std::string> names;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(folder, none)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  std::set<int> Documents(LocalShard& shard) {
    std::set<int> documents;
    const auto listed = shard.ListDocuments({}, bank_.name, "", 1000);
    EXPECT_TRUE(listed.ok()) << listed.status();
    for (const auto& info : *listed) documents.insert(std::stoi(info.id.substr(1)));
    return documents;
  }
  uint64_t Snapshot(LocalShard& shard) {
    return shard.OpenSnapshot({}, bank_.name, absl::Minutes(1))->id;
  }
  // By reference: the scores of every layer, then the rank's.
  std::map<int64_t, std::vector<float>> Scores(LocalShard& shard) {
    std::map<int64_t, std::vector<float>> scores;
    const uint64_t snapshot = Snapshot(shard);
    for (int32_t layer : bank_.router_layers) {
      const auto routed = shard.Route(
          {}, {bank_.name, snapshot, 0, layer, 1024, testing::MakeQueries(bank_, 3, 42)});
      EXPECT_TRUE(routed.ok()) << routed.status();
      for (const auto& part : *routed) {
        scores[part.scored.reference].push_back(part.scored.score);
      }
    }
    const auto ranked = shard.Rank({}, {bank_.name, snapshot, 0, 1024, false, {}});
    EXPECT_TRUE(ranked.ok()) << ranked.status();
    for (const auto& part : *ranked) scores[part.scored.reference].push_back(part.scored.score);
    return scores;
  }
  // Texts and blocks of all.
  void CheckAll(LocalShard& shard, const std::set<int>& documents) {
    const uint64_t snapshot = Snapshot(shard);
    for (int i : documents) {
      const absl::Status status = Check(shard, snapshot, i);
      EXPECT_TRUE(status.ok()) << i << ": " << status;
    }
  }

  const std::string backups_ = data_ + "/backups";
  std::unique_ptr<LocalShard> shard_;
};

TEST_F(BackupsTest, ACopyIsWhatTheStoreWasAtAMomentOfTheCall) {
  constexpr int kWriters = 3, kCopies = 4, kStaying = 10;
  for (int i = 0; i < kStaying; ++i) ASSERT_TRUE(Put(*shard_, 900'000 + i).ok());
  std::vector<std::unique_ptr<Writer>> writers;
  for (int i = 0; i < kWriters; ++i) writers.push_back(std::make_unique<Writer>(i));
  std::atomic<bool> stop = false;
  absl::BlockingCounter warm(kWriters);
  std::vector<std::thread> threads;
  for (auto& writer : writers) {
    threads.emplace_back([&, writer = writer.get()] {
      while (!stop) {
        writer->Step([&](int i) { EXPECT_TRUE(Put(*shard_, i).ok()) << i; },
                     [&](int i) { Delete(*shard_, i); });
        if (writer->done() == 2 * Writer::kKept + 20) warm.DecrementCount();
      }
    });
  }
  warm.Wait();
  FolderBackups backups = Backups();
  struct Copy {
    rpc::Backup backup;
    std::vector<int> before, after;
  };
  std::vector<Copy> copies(kCopies);
  int written_meanwhile = 0;
  for (int c = 0; c < kCopies; ++c) {
    for (auto& writer : writers) copies[c].before.push_back(writer->done());
    copies[c].backup = Create(backups, StrCat("copy-", c));
    for (auto& writer : writers) copies[c].after.push_back(writer->done() + 1);
    for (int i = 0; i < kWriters; ++i) {
      written_meanwhile += copies[c].after[i] - 1 - copies[c].before[i];
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(written_meanwhile, 0) << "nothing was written while it was copied";

  const auto served = Scores(*shard_);
  CheckAll(*shard_, Documents(*shard_));
  int compared = 0;
  for (const Copy& copy : copies) {
    SCOPED_TRACE(copy.backup.name);
    EXPECT_EQ(copy.backup.path, backups_ + "/" + copy.backup.name);
    auto opened = Open(copy.backup.path);
    ASSERT_TRUE(opened.ok()) << opened.status();
    const std::set<int> documents = Documents(**opened);
    EXPECT_EQ(copy.backup.num_documents, static_cast<int64_t>(documents.size()));
    for (int i = 0; i < kWriters; ++i) {
      std::set<int> own;
      for (int document : documents) {
        if (writers[i]->Owns(document)) own.insert(document);
      }
      int steps = copy.before[i];
      while (steps <= copy.after[i] && own != writers[i]->After(steps)) ++steps;
      EXPECT_LE(steps, copy.after[i]) << "no state between " << copy.before[i] << " and "
                                      << copy.after[i] << " steps of writer " << i;
    }
    CheckAll(**opened, documents);
    const auto scores = Scores(**opened);
    EXPECT_EQ(scores.size(), 2 * documents.size());
    for (const auto& [reference, of_layers] : scores) {
      const auto here = served.find(reference);
      if (here != served.end()) {
        EXPECT_EQ(of_layers, here->second) << reference;
        ++compared;
      }
    }
  }
  EXPECT_GE(compared, kCopies * 2 * kStaying);
}

TEST_F(BackupsTest, ACopyAnswersAsTheOriginalAndIsItsOwn) {
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(Put(*shard_, i).ok());
  for (int i = 0; i < 10; ++i) Delete(*shard_, i);
  FolderBackups backups = Backups();
  const rpc::Backup backup = Create(backups, "a");
  EXPECT_EQ(backup.num_documents, 20);
  const auto served = Scores(*shard_);
  EXPECT_EQ(served.size(), 40u);
  for (int i = 10; i < 20; ++i) Delete(*shard_, i);
  shard_->RunMaintenance();
  auto copy = Open(backup.path);
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(Scores(**copy), served);
  for (int i = 20; i < 30; ++i) Delete(**copy, i);
  (*copy)->RunMaintenance();
  copy->reset();
  EXPECT_EQ(Documents(*shard_).size(), 10u);
  CheckAll(*shard_, Documents(*shard_));
}

TEST_F(BackupsTest, DocumentsOfDeletedBanksAreNotCounted) {
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Put(*shard_, i).ok());
  const rpc::BankSpec first =
      std::exchange(bank_, testing::TestBank(DType::kInt8, DType::kFloat32, "second", 78));
  ASSERT_TRUE(shard_->CreateBank({}, bank_).ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Put(*shard_, i).ok());
  FolderBackups backups = Backups();
  EXPECT_EQ(Create(backups, "both").num_documents, 8);
  ASSERT_TRUE(shard_->DeleteBank({}, first.name).ok());
  EXPECT_EQ(Create(backups, "one").num_documents, 3);
}

TEST_F(BackupsTest, WhatIsNoNameIsRefusedAndNothingIsWritten) {
  FolderBackups backups = Backups();
  const std::vector<std::string> before = NamesIn(data_);
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string(".hidden"),
        std::string("a/b"), std::string("../a"), std::string("/a"), std::string("a b"),
        std::string("a\n"), std::string("ä"), std::string("a\0b", 3), std::string("a\\b"),
        std::string(129, 'a')}) {
    for (const absl::Status& status :
         {backups.CreateBackup({}, name).status(), backups.DeleteBackup({}, name)}) {
      EXPECT_EQ(status.code(), Code::kInvalidArgument) << name;
      EXPECT_THAT(std::string(status.message()), HasSubstr("letters, digits")) << name;
    }
  }
  EXPECT_EQ(NamesIn(data_), before);
  for (const std::string& name : {std::string("a.B_9-"), std::string("-"), std::string(128, 'a')}) {
    EXPECT_EQ(Create(backups, name).name, name);
  }
}

TEST_F(BackupsTest, ANameIsGivenOnceUntilItIsDeleted) {
  ASSERT_TRUE(Put(*shard_, 0).ok());
  FolderBackups backups = Backups();
  EXPECT_THAT(*backups.ListBackups({}), IsEmpty());
  EXPECT_EQ(backups.DeleteBackup({}, "b").code(), Code::kNotFound);
  rpc::Backup first = Create(backups, "b");
  const auto files = NamesIn(first.path);
  ASSERT_TRUE(Put(*shard_, 1).ok());
  const absl::Status again = backups.CreateBackup({}, "b").status();
  EXPECT_EQ(again.code(), Code::kAlreadyExists) << again;
  EXPECT_EQ(NamesIn(first.path), files);
  EXPECT_EQ(Create(backups, "a").num_documents, 2);
  EXPECT_THAT(NamesIn(backups_), ElementsAre("a", "b"));

  const auto listed = *backups.ListBackups({});
  ASSERT_EQ(listed.size(), 2u);
  EXPECT_EQ(listed[0].name, "a");
  first.num_documents = 0;  // which a list does not say
  EXPECT_EQ(listed[1], first);
  EXPECT_GT(first.made_unix_micros, 1'600'000'000'000'000);

  ASSERT_TRUE(backups.DeleteBackup({}, "b").ok());
  EXPECT_THAT(NamesIn(backups_), ElementsAre("a"));
  Overwrite(backups_ + "/b", "a file");
  EXPECT_EQ(backups.CreateBackup({}, "b").status().code(), Code::kAlreadyExists);
  EXPECT_EQ(backups.DeleteBackup({}, "b").code(), Code::kNotFound);
  EXPECT_EQ(Contents(backups_ + "/b"), "a file");
}

TEST_F(BackupsTest, LargeFilesAreLinks) {
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(Put(*shard_, i).ok());
  FolderBackups backups = Backups();
  const rpc::Backup backup = Create(backups, "a");
  EXPECT_EQ(backup.bytes, FileBytes(backup.path));
  EXPECT_GT(backup.bytes - backup.unshared_bytes, 200 * 3000 / 4);  // texts are compressed
  EXPECT_GT(backup.unshared_bytes, 0);
  const int64_t original = FileBytes(data_);
  EXPECT_EQ(shard_->store().DiskBytes(), original) << "backups are no part of it";
  shard_.reset();
  for (const auto& entry : fs::directory_iterator(data_)) {
    if (entry.is_regular_file()) fs::remove(entry);
  }
  FolderBackups orphaned(nullptr, data_, {});
  EXPECT_EQ(orphaned.ListBackups({})->front().unshared_bytes, backup.bytes);
  EXPECT_TRUE(Open(backup.path).ok());
}

TEST_F(BackupsTest, OneThatFailsLeavesNothing) {
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Put(*shard_, i).ok());
  FailingStore store(&shard_->store());
  FolderBackups failing(&store, data_, {});
  EXPECT_EQ(failing.CreateBackup({}, "a").status().code(), Code::kResourceExhausted);
  EXPECT_TRUE(store.copied_);
  EXPECT_THAT(NamesIn(backups_), IsEmpty());

  store.unreadable_ = true;
  EXPECT_FALSE(failing.CreateBackup({}, "a").ok());
  EXPECT_THAT(NamesIn(backups_), IsEmpty());

  fs::create_directory(data_ + "/folder");  // no file, so that it cannot be copied
  FolderBackups other(&shard_->store(), data_, {"folder"});
  EXPECT_FALSE(other.CreateBackup({}, "a").ok());
  EXPECT_THAT(NamesIn(backups_), IsEmpty());

  const auto in_memory = MakeMemoryStore();
  FolderBackups without_folder(in_memory.get(), data_, {});
  EXPECT_EQ(without_folder.CreateBackup({}, "a").status().code(), Code::kFailedPrecondition);
  EXPECT_THAT(NamesIn(backups_), IsEmpty());

  FolderBackups backups = Backups();
  Overwrite(backups_ + "/.a.partial", "what could not be removed");
  EXPECT_EQ(Create(backups, "a").num_documents, 3);
  EXPECT_THAT(NamesIn(backups_), ElementsAre("a"));
}

TEST_F(BackupsTest, TheirNumberIsLimited) {
  FolderBackups backups = Backups();
  for (size_t i = 0; i < kMaxBackups; ++i) {
    const std::string one = StrCat(backups_, "/", i);
    fs::create_directories(one);
    Overwrite(one + "/CURRENT", "");
  }
  const absl::Status full = backups.CreateBackup({}, "a").status();
  EXPECT_EQ(full.code(), Code::kResourceExhausted) << full;
  ASSERT_TRUE(backups.DeleteBackup({}, "0").ok());
  EXPECT_EQ(Create(backups, "a").name, "a");
}

TEST_F(BackupsTest, WhoHasGoneGetsNone) {
  FolderBackups backups = Backups();
  rpc::CallContext late;
  late.deadline = absl::Now() - absl::Seconds(1);
  EXPECT_EQ(backups.CreateBackup(late, "a").status().code(), Code::kDeadlineExceeded);
  EXPECT_THAT(NamesIn(backups_), IsEmpty());
  rpc::CallContext leaves;  // once the copy is there
  leaves.cancelled = [this] { return fs::exists(backups_ + "/.a.partial/CURRENT"); };
  EXPECT_EQ(backups.CreateBackup(leaves, "a").status().code(), Code::kCancelled);
  EXPECT_THAT(NamesIn(backups_), IsEmpty());
}

TEST_F(BackupsTest, WhoGoesWhileItIsCountedGetsNone) {
  WriteSet writes;
  for (int i = 0; i < 10'000; ++i) writes.Put(Table::kMeta, MetaKey(bank_.uid, StrCat(i)), "");
  ASSERT_TRUE(shard_->store().Commit(writes, DocumentStore::Priority::kNormal).ok());
  FolderBackups backups = Backups();
  rpc::CallContext leaves;
  int looks = 0;  // one before the copy, one after the count
  leaves.cancelled = [&looks] { return ++looks > 2; };
  EXPECT_EQ(backups.CreateBackup(leaves, "a").status().code(), Code::kCancelled);
  EXPECT_THAT(NamesIn(backups_), IsEmpty());
}

TEST_F(BackupsTest, NobodyWaitsForAnotherPastHisDeadline) {
  WaitingStore store(&shard_->store());
  FolderBackups backups(&store, data_, {});
  std::thread making([&] { EXPECT_EQ(Create(backups, "a").name, "a"); });
  store.asked_.WaitForNotification();
  EXPECT_THAT(*backups.ListBackups({}), IsEmpty());
  EXPECT_FALSE(fs::exists(backups_ + "/a")) << "the list waited";
  rpc::CallContext soon;
  soon.deadline = absl::Now() + absl::Milliseconds(10);
  EXPECT_EQ(backups.DeleteBackup(soon, "a").code(), Code::kDeadlineExceeded);
  EXPECT_EQ(backups.CreateBackup(soon, "b").status().code(), Code::kDeadlineExceeded);
  rpc::CallContext gone;
  gone.cancelled = [] { return true; };
  EXPECT_EQ(backups.DeleteBackup(gone, "a").code(), Code::kCancelled);
  EXPECT_FALSE(fs::exists(backups_ + "/a")) << "they waited";
  store.go_on_.Notify();
  making.join();
  EXPECT_TRUE(backups.DeleteBackup({}, "a").ok());
}

TEST_F(BackupsTest, WhatIsNoDataFolderIsNoBackup) {
  FolderBackups backups = Backups();
  const rpc::Backup backup = Create(backups, "a");
  fs::create_directories(backups_ + "/folder");
  Overwrite(backups_ + "/folder/file", "somebody's");
  fs::create_directory_symlink(backup.path, backups_ + "/link");
  EXPECT_EQ(backups.ListBackups({})->size(), 1u);
  for (const std::string name : {"folder", "link"}) {
    EXPECT_EQ(backups.DeleteBackup({}, name).code(), Code::kNotFound) << name;
    EXPECT_EQ(backups.CreateBackup({}, name).status().code(), Code::kAlreadyExists) << name;
  }
  EXPECT_THAT(NamesIn(backups_), ElementsAre("a", "folder", "link"));
  EXPECT_TRUE(Open(backup.path).ok());
}

TEST_F(BackupsTest, ADeleteThatWasCutShortIsRepeated) {
  FolderBackups backups = Backups();
  fs::rename(Create(backups, "a").path, backups_ + "/.a.partial");
  const absl::Status deleted = backups.DeleteBackup({}, "a");
  EXPECT_TRUE(deleted.ok()) << deleted;
  EXPECT_THAT(NamesIn(backups_), IsEmpty());
  EXPECT_EQ(backups.DeleteBackup({}, "a").code(), Code::kNotFound);
}

// The server that reads a copy has descriptors to give to its clients.
TEST_F(BackupsTest, AStoreThatIsOnlyReadOpensFewFilesAtOnce) {
  {
    auto store = OpenRocksDbStore({.path = image_, .write_buffer_bytes = 64 << 10});
    ASSERT_TRUE(store.ok()) << store.status();
    for (int i = 0; i < 150; ++i) {
      WriteSet writes;
      writes.Put(Table::kRouting, StrCat(1000 + i), std::string(64 << 10, 'k'));
      ASSERT_TRUE((*store)->Commit(writes, DocumentStore::Priority::kNormal).ok());
    }
  }
  ASSERT_GT(Files(image_, ".sst").size(), 100u);
  const auto store = OpenRocksDbStore({.path = image_, .read_only = true});
  ASSERT_TRUE(store.ok()) << store.status();
  int values = 0;
  const auto cursor = (*store)->NewCursor(Table::kRouting, /*sequential=*/true);
  for (cursor->Seek(""); cursor->Valid(); cursor->Next()) ++values;
  EXPECT_EQ(values, 150);
  int open = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code closed;
    open += fs::read_symlink(entry, closed).string().starts_with(image_);
  }
  EXPECT_LE(open, 80);
}

TEST_F(BackupsTest, AStartRemovesWhatACrashLeftAndIgnoresTheRest) {
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Put(*shard_, i).ok());
  Overwrite(data_ + "/place.json", "{}");
  {
    FolderBackups backups = Backups();
    EXPECT_EQ(Contents(Create(backups, "kept").path + "/place.json"), "{}");
  }
  fs::create_directory(backups_ + "/.half.partial");
  fs::create_directory(backups_ + "/.half.partial.tmp");
  Overwrite(backups_ + "/.half.partial/000001.sst", "half");
  Overwrite(backups_ + "/.note", "somebody's");
  for (const char* others : {".rsync.partial-dir", ".a b.partial", "..partial", ".a.partial.old"}) {
    fs::create_directory(StrCat(backups_, "/", others));
  }
  shard_.reset();
  auto reopened = Open(data_);
  ASSERT_TRUE(reopened.ok()) << reopened.status();
  shard_ = *std::move(reopened);
  FolderBackups backups = Backups();
  EXPECT_THAT(NamesIn(backups_), ElementsAre("..partial", ".a b.partial", ".a.partial.old", ".note",
                                             ".rsync.partial-dir", "kept"));
  EXPECT_EQ(backups.ListBackups({})->size(), 1u);
  CheckAll(*shard_, {0, 1, 2});
}

}  // namespace
}  // namespace msa::memory_node

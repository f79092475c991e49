// Disks and folders that do not do what is asked: full, read-only, locked, of another version.
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <thread>

#include "gmock/gmock.h"
#include "memory_node/backups.h"
#include "memory_node/data_folder.h"
#include "tests/memory_node/child_process.h"
#include "tests/memory_node/store_fixture.h"

namespace msa::memory_node {
namespace {

using ::testing::HasSubstr;
using Code = absl::StatusCode;

class DiskTest : public testing::StoreFixture {
 protected:
  ~DiskTest() override {
    if (mounted_) umount2(mount_.c_str(), MNT_DETACH);
  }
  // A disk of that size at mount_; false (say why) where mounting is not allowed.
  bool Mount(const char* options) {
    mkdir(mount_.c_str(), 0700);
    mounted_ = mount("tmpfs", mount_.c_str(), "tmpfs", 0, options) == 0;
    return mounted_;
  }

  // Puts until the disk is full; how many documents were acknowledged. The next may be taken again:
  // a flush gives logs back.
  int Fill(LocalShard& shard, int from) {
    for (int i = from;; ++i) {
      const absl::Status status = Put(shard, i);
      if (status.ok()) continue;
      EXPECT_EQ(status.code(), Code::kResourceExhausted) << status;
      return i;
    }
  }

  const std::string mount_ = folder_.path() + "/disk";
  bool mounted_ = false;
};

TEST_F(DiskTest, AFullDiskRefusesWritesAndRecovers) {
  if (!Mount("size=24m")) GTEST_SKIP() << "cannot mount a small disk: " << std::strerror(errno);
  for (int64_t reserve : {int64_t{0}, int64_t{4 << 20}}) {
    SCOPED_TRACE(reserve);
    const std::string path = mount_ + "/data", filler = mount_ + "/filler";
    Overwrite(filler, std::string(12 << 20, 'f'));
    int acknowledged = 0;
    {
      auto shard = Open(path, reserve);
      ASSERT_TRUE(shard.ok()) << shard.status();
      ASSERT_TRUE((*shard)->CreateBank({}, bank_).ok());
      acknowledged = Fill(**shard, 0);
      ASSERT_GT(acknowledged, 10);
      const uint64_t snapshot = (*shard)->OpenSnapshot({}, bank_.name, absl::Minutes(5))->id;
      for (int i = 0; i < acknowledged; ++i) EXPECT_TRUE(Check(**shard, snapshot, i).ok()) << i;
      EXPECT_EQ((*shard)->Stats({}, bank_.name)->num_documents, acknowledged);
      if (reserve > 0) {  // a delete needs no more room than is kept for it
        EXPECT_TRUE((*shard)->DeleteDocument({}, bank_.name, "d0").ok());
      }
      std::filesystem::remove(filler);
      const absl::Status put = Put(**shard, acknowledged);
      ASSERT_TRUE(put.ok()) << put;
    }
    auto shard = Open(path, reserve);
    ASSERT_TRUE(shard.ok()) << shard.status();
    const uint64_t snapshot = (*shard)->OpenSnapshot({}, bank_.name, absl::Minutes(5))->id;
    for (int i = reserve > 0 ? 1 : 0; i <= acknowledged; ++i) {
      EXPECT_TRUE(Check(**shard, snapshot, i).ok()) << i;
    }
    shard->reset();
    std::filesystem::remove_all(path);
  }
}

// With buffers larger than the disk, as on any disk that is nearly full: all that was written has
// still to be flushed.
TEST_F(DiskTest, WritersAtOnceLeaveRoomForWhatIsNotFlushed) {
  if (!Mount("size=24m")) GTEST_SKIP() << "cannot mount a small disk: " << std::strerror(errno);
  constexpr int kThreads = 12;
  const std::string path = mount_ + "/data";
  const auto value = [](int thread, int i) {
    return std::string((100 << 10) + 997 * thread + i, static_cast<char>('a' + thread));
  };
  std::vector<int> acknowledged(kThreads);
  const auto check = [&](DocumentStore& store) {
    for (int thread = 0; thread < kThreads; ++thread) {
      for (int i = 0; i < acknowledged[thread]; ++i) {
        const auto got = store.Get(Table::kContent, StrCat(thread, "-", i));
        ASSERT_TRUE(got.ok()) << thread << "-" << i << ": " << got.status();
        EXPECT_TRUE(got->view() == value(thread, i)) << thread << "-" << i;
      }
    }
  };
  {
    auto store = OpenRocksDbStore({.path = path, .reserve_bytes = 0});
    ASSERT_TRUE(store.ok()) << store.status();
    const auto fill = [&](int thread) {
      for (int i = 0;; ++i) {
        WriteSet writes;
        writes.Put(Table::kContent, StrCat(thread, "-", i), value(thread, i));
        writes.Put(Table::kRouting, StrCat(thread, "-", i), std::string(20 << 10, 'k'));
        const absl::Status status = (*store)->Commit(writes, DocumentStore::Priority::kNormal);
        acknowledged[thread] = i;
        if (status.ok()) continue;
        EXPECT_EQ(status.code(), Code::kResourceExhausted) << status;
        return;
      }
    };
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) threads.emplace_back(fill, thread);
    for (std::thread& thread : threads) thread.join();
    EXPECT_GT(std::accumulate(acknowledged.begin(), acknowledged.end(), 0), 40);
    check(**store);
  }
  auto store = OpenRocksDbStore({.path = path, .reserve_bytes = 0});
  ASSERT_TRUE(store.ok()) << store.status();
  check(**store);
}

// More than the reserve, in all: deletes go on, and leave room for a flush, too.
TEST_F(DiskTest, DeletesGoOnBeyondTheReserve) {
  if (!Mount("size=24m")) GTEST_SKIP() << "cannot mount a small disk: " << std::strerror(errno);
  const std::string path = mount_ + "/data";
  for (const bool reopened : {false, true}) {
    auto store = OpenRocksDbStore({.path = path, .reserve_bytes = 0});
    ASSERT_TRUE(store.ok()) << store.status();
    absl::Status status;
    for (int i = 0; status.ok(); ++i) {
      WriteSet writes;
      writes.Put(Table::kContent, StrCat(reopened, "-", i), std::string(100 << 10, 'c'));
      status = (*store)->Commit(writes, DocumentStore::Priority::kNormal);
    }
    EXPECT_EQ(status.code(), Code::kResourceExhausted) << status;
    for (int i = 0; i < 4000; ++i) {
      WriteSet writes;
      writes.Put(Table::kSystem, "k", std::string(4 << 10, 'v'));
      const absl::Status urgent = (*store)->Commit(writes, DocumentStore::Priority::kUrgent);
      ASSERT_TRUE(urgent.ok()) << i << ": " << urgent;
    }
  }
}

// A flush that does not fit, and links for which there is room: nothing is left but an answer.
TEST_F(DiskTest, ABackupThatDoesNotFitLeavesNothing) {
  if (!Mount("size=24m")) GTEST_SKIP() << "cannot mount a small disk: " << std::strerror(errno);
  const std::string path = mount_ + "/data", filler = mount_ + "/filler";
  Overwrite(filler, std::string(12 << 20, 'f'));
  auto shard = Open(path, 0);
  ASSERT_TRUE(shard.ok()) << shard.status();
  ASSERT_TRUE((*shard)->CreateBank({}, bank_).ok());
  const int acknowledged = Fill(**shard, 0);
  FolderBackups backups(&(*shard)->store(), path, {});
  const absl::Status full = backups.CreateBackup({}, "a").status();
  EXPECT_EQ(full.code(), Code::kResourceExhausted) << full;
  EXPECT_TRUE(!std::filesystem::exists(path + "/backups") ||
              std::filesystem::is_empty(path + "/backups"));
  std::filesystem::remove(filler);
  const auto made = backups.CreateBackup({}, "a");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->front().num_documents, acknowledged);
  ASSERT_TRUE(Put(**shard, acknowledged).ok());
}

// After a flush that did not fit RocksDB refuses others until it is told to try again.
TEST_F(DiskTest, ABackupIsMadeOnceThereIsSpaceAgain) {
  if (!Mount("size=24m")) GTEST_SKIP() << "cannot mount a small disk: " << std::strerror(errno);
  const std::string path = mount_ + "/data", filler = mount_ + "/filler";
  auto store = OpenRocksDbStore({.path = path, .reserve_bytes = 0});
  ASSERT_TRUE(store.ok()) << store.status();
  WriteSet writes;
  writes.Put(Table::kRouting, "k", std::string(4 << 20, 'v'));
  ASSERT_TRUE((*store)->Commit(writes, DocumentStore::Priority::kNormal).ok());
  uint64_t free_bytes = 0;
  ASSERT_TRUE(FreeBytes(path, &free_bytes));
  Overwrite(filler, std::string(free_bytes - (1 << 20), 'f'));
  std::atomic<bool> cancelled = false;
  const absl::Status full = (*store)->Reclaim(Table::kRouting, "", "z", &cancelled);
  EXPECT_EQ(full.code(), Code::kResourceExhausted) << full;
  std::filesystem::remove(filler);
  FolderBackups backups(store->get(), path, {});
  const auto made = backups.CreateBackup({}, "a");
  EXPECT_TRUE(made.ok()) << made.status();
}

TEST_F(DiskTest, AReadOnlyDiskIsSaid) {
  if (!Mount("size=8m")) GTEST_SKIP() << "cannot mount a small disk: " << std::strerror(errno);
  ASSERT_EQ(mount("tmpfs", mount_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr), 0);
  for (const std::string& path : {mount_, mount_ + "/new"}) {
    const absl::Status status = Open(path).status();
    EXPECT_EQ(status.code(), Code::kPermissionDenied) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  }
}

TEST_F(DiskTest, AFileIsNoFolder) {
  Overwrite(data_, "a file");
  const absl::Status status = Open(data_).status();
  EXPECT_EQ(status.code(), Code::kInvalidArgument) << status;
  EXPECT_EQ(Contents(data_), "a file");
}

TEST_F(DiskTest, AFolderInUseIsSaid) {
  testing::ChildProcess other(
      {std::string(MSA_BINARY_DIR) + "/tests/crash_workload", "hold", data_});
  ASSERT_TRUE(other.ReadByte());
  const absl::Status status = Open(data_).status();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another process"));
  other.Kill();
  EXPECT_TRUE(Open(data_).ok());
}

TEST_F(DiskTest, ABackupInUseIsNotDeleted) {
  auto shard = Open(data_);
  ASSERT_TRUE(shard.ok()) << shard.status();
  FolderBackups backups(&(*shard)->store(), data_, {});
  const auto made = backups.CreateBackup({}, "a");
  ASSERT_TRUE(made.ok()) << made.status();
  testing::ChildProcess other(
      {std::string(MSA_BINARY_DIR) + "/tests/crash_workload", "hold", made->front().path});
  ASSERT_TRUE(other.ReadByte());
  const absl::Status status = backups.DeleteBackup({}, "a");
  EXPECT_EQ(status.code(), Code::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another process"));
  EXPECT_EQ(backups.ListBackups({})->size(), 1u);
  other.Kill();
  EXPECT_TRUE(backups.DeleteBackup({}, "a").ok());
  EXPECT_FALSE(std::filesystem::exists(made->front().path));
}

TEST_F(DiskTest, AnotherFormatVersionIsRefused) {
  {
    auto store = OpenRocksDbStore({.path = data_});
    ASSERT_TRUE(store.ok());
    WriteSet writes;
    writes.Put(Table::kSystem, "f", std::string("\x63\0\0\0", 4));
    ASSERT_TRUE((*store)->Commit(writes, DocumentStore::Priority::kNormal).ok());
  }
  const absl::Status status = Open(data_).status();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("99"));
}

}  // namespace
}  // namespace msa::memory_node

// One name on all shards or on none.
#include "router/backups.h"

#include <atomic>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_backup_service.h"

namespace msa::router {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class ClusterBackupsTest : public ::testing::Test {
 protected:
  ClusterBackupsTest() : backups_(Map(), {&shards_[0], &shards_[1], &shards_[2]}) {}

  static rpc::ShardMap Map() {
    rpc::ShardMap map;
    for (const char* name : {"a", "b", "c"}) map.shards.push_back({name, "host:1"});
    return map;
  }
  // "a/x": backup x of shard a.
  static std::vector<std::string> Names(const absl::StatusOr<std::vector<rpc::Backup>>& backups) {
    EXPECT_TRUE(backups.ok()) << backups.status();
    std::vector<std::string> names;
    for (const rpc::Backup& backup : *backups) names.push_back(backup.shard + "/" + backup.name);
    return names;
  }

  testing::FakeBackupService shards_[3];
  ClusterBackups backups_;
};

TEST_F(ClusterBackupsTest, AllShardsHaveIt) {
  EXPECT_THAT(Names(backups_.CreateBackup({}, "x")), ElementsAre("a/x", "b/x", "c/x"));
  ASSERT_TRUE(shards_[1].CreateBackup({}, "own").ok());
  EXPECT_THAT(Names(backups_.ListBackups({})), ElementsAre("a/x", "b/own", "b/x", "c/x"));
  EXPECT_TRUE(backups_.DeleteBackup({}, "x").ok());
  EXPECT_TRUE(backups_.DeleteBackup({}, "own").ok());
  EXPECT_THAT(Names(backups_.ListBackups({})), ElementsAre());
  const absl::Status gone = backups_.DeleteBackup({}, "x");
  EXPECT_TRUE(absl::IsNotFound(gone)) << gone;
}

TEST_F(ClusterBackupsTest, WhereOneShardFailsTheOthersKeepNone) {
  shards_[2].set_error(absl::ResourceExhaustedError("the disk is full"));
  const absl::Status full = backups_.CreateBackup({}, "x").status();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_THAT(std::string(full.message()), HasSubstr("shard 'c': the disk is full"));
  shards_[2].set_error(absl::OkStatus());
  EXPECT_THAT(Names(backups_.ListBackups({})), ElementsAre());
}

TEST_F(ClusterBackupsTest, AnOlderOneOfTheNameIsKept) {
  ASSERT_TRUE(shards_[1].CreateBackup({}, "x").ok());
  const absl::Status there = backups_.CreateBackup({}, "x").status();
  EXPECT_TRUE(absl::IsAlreadyExists(there)) << there;
  EXPECT_THAT(std::string(there.message()), HasSubstr("shard 'b'"));
  EXPECT_THAT(Names(backups_.ListBackups({})), ElementsAre("b/x"));
}

// A client that has gone does not keep a half made one from being deleted.
TEST_F(ClusterBackupsTest, WhatIsTakenBackIsNotTheClientsCall) {
  rpc::CallContext leaves;  // once each shard has been asked to make it
  std::atomic<int> looks = 0;
  leaves.cancelled = [&looks] { return ++looks > 3; };
  shards_[0].set_error(absl::UnavailableError("shard 'a' (host:1): is down"));
  const absl::Status down = backups_.CreateBackup(leaves, "x").status();
  EXPECT_EQ(down, absl::UnavailableError("shard 'a' (host:1): is down"));
  EXPECT_TRUE(leaves.cancelled());
  shards_[0].set_error(absl::OkStatus());
  EXPECT_THAT(Names(backups_.ListBackups({})), ElementsAre());
}

TEST_F(ClusterBackupsTest, WhatCannotBeTakenBackIsSaid) {
  shards_[0].set_error(absl::ResourceExhaustedError("the disk is full"));
  shards_[1].set_delete_error(absl::UnavailableError("is down"));
  shards_[2].set_delete_error(absl::NotFoundError("there is none"));  // somebody was faster
  ::testing::internal::CaptureStderr();
  const absl::Status full = backups_.CreateBackup({}, "x").status();
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_THAT(std::string(full.message()), HasSubstr("shard 'a': the disk is full"));
  EXPECT_THAT(std::string(full.message()), HasSubstr("'x' stays on shard 'b'"));
  EXPECT_THAT(std::string(full.message()), Not(HasSubstr("shard 'c'")));
  EXPECT_THAT(log, AllOf(HasSubstr("warning"), HasSubstr("shard 'b': is down")));
}

TEST_F(ClusterBackupsTest, AShardThatFailsIsNamed) {
  ASSERT_TRUE(backups_.CreateBackup({}, "x").ok());
  shards_[1].set_error(absl::UnavailableError("is down"));
  for (const absl::Status& status :
       {backups_.ListBackups({}).status(), backups_.DeleteBackup({}, "x")}) {
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("shard 'b'"));
  }
  shards_[1].set_error(absl::OkStatus());
  EXPECT_THAT(Names(backups_.ListBackups({})), ElementsAre("b/x"));
  EXPECT_TRUE(backups_.DeleteBackup({}, "x").ok());
}

// That others have it not does not say that one that is down has it not.
TEST_F(ClusterBackupsTest, AShardThatFailsCountsMoreThanThoseWithoutIt) {
  ASSERT_TRUE(shards_[1].CreateBackup({}, "x").ok());
  shards_[1].set_error(absl::UnavailableError("is down"));
  const absl::Status down = backups_.DeleteBackup({}, "x");
  EXPECT_TRUE(absl::IsUnavailable(down)) << down;
  EXPECT_THAT(std::string(down.message()), HasSubstr("shard 'b': is down"));
}

}  // namespace
}  // namespace msa::router

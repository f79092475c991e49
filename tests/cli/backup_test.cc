// msa backup … over a fake server.
#include <gmock/gmock.h>

#include "tests/cli/cli_fixture.h"
#include "tests/support/fake_backup_service.h"

namespace msa::cli {
namespace {

using ::testing::HasSubstr;

// Passes every call on: verbs own what they connect to, the test keeps the fake.
class BorrowedBackups : public rpc::BackupService {
 public:
  explicit BorrowedBackups(rpc::BackupService& to) : to_(to) {}
  absl::StatusOr<std::vector<rpc::Backup>> CreateBackup(const rpc::CallContext& ctx,
                                                        const std::string& name) override {
    EXPECT_GT(ctx.deadline, absl::Now() + absl::Seconds(300)) << "a copy may take a while";
    return to_.CreateBackup(ctx, name);
  }
  absl::StatusOr<std::vector<rpc::Backup>> ListBackups(const rpc::CallContext& ctx) override {
    return to_.ListBackups(ctx);
  }
  absl::Status DeleteBackup(const rpc::CallContext& ctx, const std::string& name) override {
    return to_.DeleteBackup(ctx, name);
  }

 private:
  rpc::BackupService& to_;
};

class BackupCliTest : public CliTest {
 protected:
  BackupCliTest() {
    connect_ = [this](const ServerAt& server) -> absl::StatusOr<Connection> {
      server_ = server.address;
      return Connection{.keeps = nullptr,
                        .service = nullptr,
                        .reachable = [this] { return reachable_; },
                        .about = {},
                        .backups = std::make_unique<BorrowedBackups>(backups_)};
    };
  }

  msa::testing::FakeBackupService backups_;
};

TEST_F(BackupCliTest, OneIsMadeListedAndDeleted) {
  ASSERT_EQ(Msa({"backup", "create", "--server", "10.0.0.1:7071", "nightly"}), 0) << err_;
  EXPECT_EQ(server_, "10.0.0.1:7071");
  EXPECT_EQ(out_, "made backup nightly: 300 documents, 3.0 MB, in /data/backups/nightly\n");
  ASSERT_EQ(Msa({"backup", "ls"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("nightly"));
  EXPECT_THAT(out_, HasSubstr("2027-01-15 08:00:00       3.0         0.0  /data/backups/nightly"));
  ASSERT_EQ(Msa({"backup", "rm", "nightly"}), 0) << err_;
  EXPECT_EQ(out_, "deleted backup nightly\n");
  ASSERT_EQ(Msa({"backup", "ls", "--json"}), 0) << err_;
  EXPECT_EQ(out_, "");
}

TEST_F(BackupCliTest, ScriptsReadJson) {
  ASSERT_EQ(Msa({"backup", "create", "--json", "a"}), 0) << err_;
  Json line = OutLines()[0];
  EXPECT_EQ(line["name"], "a");
  EXPECT_EQ(line["path"], "/data/backups/a");
  EXPECT_EQ(line["documents"], 300);
  EXPECT_EQ(line["bytes"], 3'000'000);
  EXPECT_EQ(line["unshared_bytes"], 20'000);
  EXPECT_FALSE(line.contains("shard"));
  ASSERT_EQ(Msa({"backup", "ls", "--json"}), 0) << err_;
  line.erase("documents");
  EXPECT_EQ(OutLines()[0], line);
  ASSERT_EQ(Msa({"backup", "rm", "--json", "a"}), 0) << err_;
  EXPECT_EQ(OutLines()[0]["name"], "a");
}

TEST_F(BackupCliTest, ExitCodesTellFailuresApart) {
  ASSERT_EQ(Msa({"backup", "create", "a"}), 0) << err_;
  EXPECT_EQ(Msa({"backup", "create", "a"}), 5);
  EXPECT_EQ(err_, "msa backup create: ALREADY_EXISTS: there is a backup already\n");
  EXPECT_EQ(Msa({"backup", "rm", "b"}), 3);
  EXPECT_EQ(Msa({"backup", "create"}), 2);
  EXPECT_EQ(Msa({"backup", "nightly"}), 2);
  EXPECT_EQ(Msa({"backup", "ls", "--bank", "b"}), 2) << "a folder has all banks in it";
  backups_.set_error(absl::ResourceExhaustedError("the disk is full"));
  EXPECT_EQ(Msa({"backup", "create", "b"}), 1);
  backups_.set_error(absl::UnavailableError("refused"));
  reachable_ = false;
  EXPECT_EQ(Msa({"backup", "ls"}), 4);
  EXPECT_THAT(err_, HasSubstr("does not answer"));
}

}  // namespace
}  // namespace msa::cli

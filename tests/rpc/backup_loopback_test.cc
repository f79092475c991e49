// BackupService over a real socket, and who is let in where the server has API keys.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "auth/key_file.h"
#include "tests/memory_node/temp_folder.h"
#include "tests/rpc/loopback.h"
#include "tests/support/fake_backup_service.h"
#include "tests/support/fake_memory_service.h"

namespace msa::rpc {
namespace {

using auth::ApiKey;
using auth::Right;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

CallContext Soon() { return Within(absl::Seconds(60)); }

TEST(BackupLoopback, SaysWhatTheServiceSays) {
  msa::testing::FakeBackupService service, same;
  const auto server = ServeLoopback(&service);
  const auto client = MakeRemoteBackupService(ClientOf(*server));
  EXPECT_EQ(*client->CreateBackup(Soon(), "b"), *same.CreateBackup({}, "b"));
  EXPECT_EQ(*client->CreateBackup(Soon(), "a"), *same.CreateBackup({}, "a"));
  EXPECT_EQ(*client->ListBackups(Soon()), *same.ListBackups({}));
  const absl::Status again = client->CreateBackup(Soon(), "b").status();
  EXPECT_EQ(again, absl::AlreadyExistsError("there is a backup already"));
  EXPECT_TRUE(client->DeleteBackup(Soon(), "b").ok());
  EXPECT_EQ(client->DeleteBackup(Soon(), "b"), absl::NotFoundError("there is none"));
  EXPECT_EQ(client->ListBackups(Soon())->size(), 1u);
}

TEST(BackupLoopback, AShardsNameComesThrough) {
  class OfAShard : public msa::testing::FakeBackupService {
    absl::StatusOr<std::vector<Backup>> ListBackups(const CallContext& ctx) override {
      return std::vector<Backup>{{.shard = "s", .name = "n", .path = "/\xff"}};
    }
  } service;
  const auto server = ServeLoopback(&service);
  const auto listed = MakeRemoteBackupService(ClientOf(*server))->ListBackups(Soon());
  ASSERT_TRUE(listed.ok()) << listed.status();
  EXPECT_EQ(listed->front().shard, "s");
  EXPECT_EQ(listed->front().path, "/\\xff") << "what is not UTF-8 would break the message";
}

TEST(BackupLoopback, AServerWithoutAFolderSaysSo) {
  msa::testing::FakeMemoryService service;
  const auto server = ServeLoopback(static_cast<MemoryService*>(&service));
  const auto client = MakeRemoteBackupService(ClientOf(*server));
  EXPECT_TRUE(absl::IsUnimplemented(client->CreateBackup(Soon(), "a").status()));
}

// A folder has all banks in it.
TEST(BackupLoopback, WithApiKeysItWantsAdminOnAllBanks) {
  msa::testing::TempFolder folder;
  const std::string path = folder.path() + "/keys.json";
  const auto give = [&](const std::string& name, const std::string& bank, Right right) {
    EXPECT_TRUE(auth::ChangeKeys(path, [&](std::vector<ApiKey>* keys) {
                  keys->push_back({name, auth::Sha256("key of " + name), {{bank, right}}});
                  return absl::OkStatus();
                }).ok());
  };
  give("owner", "*", Right::kAdmin);
  give("writer", "*", Right::kWrite);
  give("admin of one", "notes", Right::kAdmin);
  const auto keys = *auth::KeyRing::Open(path, absl::Hours(1));
  msa::testing::FakeBackupService service;
  ServerOptions options;
  options.api_keys = keys.get();
  GrpcServer::Builder builder(options);
  builder.Add(&service);
  const auto server = *builder.Start("127.0.0.1:0");
  const auto client = [&](const std::string& name) {
    RemoteOptions of = ClientOf(*server);
    if (!name.empty()) of.api_key = "key of " + name;
    return MakeRemoteBackupService(of);
  };
  ASSERT_TRUE(client("owner")->CreateBackup(Soon(), "kept").ok());
  const std::vector<std::pair<std::string, absl::StatusCode>> others = {
      {"", absl::StatusCode::kUnauthenticated},
      {"stranger", absl::StatusCode::kUnauthenticated},
      {"writer", absl::StatusCode::kPermissionDenied},
      {"admin of one", absl::StatusCode::kPermissionDenied}};
  for (const auto& [who, code] : others) {
    const auto other = client(who);
    EXPECT_EQ(other->CreateBackup(Soon(), "mine").status().code(), code) << who;
    EXPECT_EQ(other->ListBackups(Soon()).status().code(), code) << who;
    EXPECT_EQ(other->DeleteBackup(Soon(), "kept").code(), code) << who;
  }
  EXPECT_EQ(client("owner")->ListBackups(Soon())->size(), 1u);
  EXPECT_TRUE(client("owner")->DeleteBackup(Soon(), "kept").ok());
}

}  // namespace
}  // namespace msa::rpc

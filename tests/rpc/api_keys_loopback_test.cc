// Who is let in where a server has API keys, over a real socket.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "auth/key_file.h"
#include "common/strings.h"
#include "rpc/admission.h"
#include "tests/memory_node/temp_folder.h"
#include "tests/rpc/loopback.h"
#include "tests/support/fake_memory_service.h"
#include "tests/support/fake_shard.h"

namespace msa::rpc {
namespace {

using auth::ApiKey;
using auth::Right;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr absl::StatusCode kOk = absl::StatusCode::kOk;
constexpr absl::StatusCode kDenied = absl::StatusCode::kPermissionDenied;
constexpr absl::StatusCode kUnauthenticated = absl::StatusCode::kUnauthenticated;

// The methods of MemoryService by name, each of `bank`, and what it needs.
struct Method {
  const char* name;
  Right needs;
  std::function<absl::Status(MemoryService&, const CallContext&, const std::string& bank)> call;
};
const std::vector<Method>& Methods() {
  static const auto& methods = *new std::vector<Method>{
      {"Stats", Right::kRead,
       [](auto& to, auto& ctx, auto& bank) { return to.Stats(ctx, bank).status(); }},
      {"ListDocuments", Right::kRead,
       [](auto& to, auto& ctx, auto& bank) { return to.ListDocuments(ctx, bank, 0, "").status(); }},
      {"GetDocument", Right::kRead,
       [](auto& to, auto& ctx, auto& bank) { return to.GetDocument(ctx, bank, "id").status(); }},
      {"Retrieve", Right::kRead,
       [](auto& to, auto& ctx, auto& bank) {
         RetrieveRequest request;
         request.bank = bank;
         request.question = "q";
         return to.Retrieve(ctx, request).status();
       }},
      {"Generate", Right::kRead,
       [](auto& to, auto& ctx, auto& bank) {
         GenerateRequest request;
         request.bank = bank;
         request.question = "q";
         return to.Generate(ctx, request, [](const GenerateEvent&) { return true; });
       }},
      {"AddDocuments", Right::kWrite,
       [](auto& to, auto& ctx, auto& bank) {
         return to.AddDocuments(
             ctx, bank, [] { return std::nullopt; }, [](const AddResult&) { return true; });
       }},
      {"DeleteDocuments", Right::kWrite,
       [](auto& to, auto& ctx, auto& bank) {
         return to.DeleteDocuments(ctx, bank, {"id"}).status();
       }},
      {"SetCoarse", Right::kAdmin,
       [](auto& to, auto& ctx, auto& bank) { return to.SetCoarse(ctx, bank, {}).status(); }},
      {"CreateBank", Right::kAdmin,
       [](auto& to, auto& ctx, auto& bank) { return to.CreateBank(ctx, bank, {}).status(); }},
      {"DeleteBank", Right::kAdmin,
       [](auto& to, auto& ctx, auto& bank) { return to.DeleteBank(ctx, bank); }}};
  return methods;
}

class ApiKeysLoopback : public ::testing::Test {
 protected:
  ApiKeysLoopback() {
    for (const char* bank : {"notes", "secret"})
      EXPECT_TRUE(service_.CreateBank({}, bank, {}).ok());
    Give("reader", {{"notes", Right::kRead}});
    Give("writer", {{"notes", Right::kWrite}});
    Give("admin", {{"notes", Right::kAdmin}});
    Give("all-reader", {{"*", Right::kRead}});
    Give("usual", {{"default", Right::kRead}});
    keys_ = *auth::KeyRing::Open(path_, absl::Hours(1));
    server_ = Serve(static_cast<MemoryService*>(&service_));
  }

  template <class Service>
  std::unique_ptr<GrpcServer> Serve(Service* service) {
    ServerOptions options;
    options.api_keys = keys_.get();
    GrpcServer::Builder builder(options);
    builder.Add(service);
    return *builder.Start("127.0.0.1:0");
  }

  void Give(const std::string& name, std::vector<auth::Grant> grants) {
    EXPECT_TRUE(auth::ChangeKeys(path_, [&](std::vector<ApiKey>* keys) {
                  keys->push_back({name, auth::Sha256("key of " + name), std::move(grants)});
                  return absl::OkStatus();
                }).ok());
  }

  RemoteOptions Options(const std::string& name, const GrpcServer& server) {
    RemoteOptions options = ClientOf(server);
    if (!name.empty()) options.api_key = "key of " + name;
    return options;
  }
  std::unique_ptr<MemoryService> Client(const std::string& name) {
    return MakeRemoteMemoryService(Options(name, *server_));
  }
  absl::Status Call(const std::string& name, const Method& method, const std::string& bank) {
    return method.call(*Client(name), Within(absl::Seconds(60)), bank);
  }

  msa::testing::TempFolder folder_;
  const std::string path_ = folder_.path() + "/keys.json";
  msa::testing::FakeMemoryService service_;
  std::unique_ptr<auth::KeyRing> keys_;
  std::unique_ptr<GrpcServer> server_;
};

TEST_F(ApiKeysLoopback, WithoutAKeyOfTheServersNothingIsAnswered) {
  for (const Method& method : Methods()) {
    const absl::Status none = Call("", method, "notes");
    EXPECT_EQ(none.code(), kUnauthenticated) << method.name;
    EXPECT_THAT(std::string(none.message()), HasSubstr("MSA_API_KEY")) << method.name;
    const absl::Status unknown = Call("stranger", method, "notes");
    EXPECT_EQ(unknown.code(), kUnauthenticated) << method.name;
    EXPECT_THAT(std::string(unknown.message()), Not(HasSubstr("stranger"))) << method.name;
  }
  for (const char* who : {"", "stranger"}) {
    EXPECT_EQ(Client(who)->ListBanks(Within(absl::Seconds(60))).status().code(), kUnauthenticated);
  }
  EXPECT_TRUE(CheckHealth(ClientOf(*server_), Within(absl::Seconds(60)), "").ok());
}

TEST_F(ApiKeysLoopback, EachMethodNeedsItsRight) {
  const std::vector<std::pair<std::string, Right>> people = {
      {"reader", Right::kRead}, {"writer", Right::kWrite}, {"admin", Right::kAdmin}};
  for (const Method& method : Methods()) {
    for (const auto& [who, has] : people) {
      const absl::StatusCode code = Call(who, method, "notes").code();
      EXPECT_EQ(code == kDenied, has < method.needs) << who << " " << method.name << " " << code;
      EXPECT_NE(code, kUnauthenticated) << who << " " << method.name;
    }
  }
}

TEST_F(ApiKeysLoopback, ABankThatMayNotBeReadAnswersAsOneThatIsNotThere) {
  for (const Method& method : Methods()) {
    for (const char* who : {"reader", "writer", "admin"}) {
      const absl::Status there = Call(who, method, "secret");
      const absl::Status not_there = Call(who, method, "absent");
      EXPECT_EQ(there.code(), kDenied) << who << " " << method.name;
      EXPECT_EQ(not_there.code(), kDenied) << who << " " << method.name;
      std::string words(there.message());
      words.replace(words.find("'secret'"), 8, "'absent'");
      EXPECT_EQ(words, not_there.message()) << who << " " << method.name;
    }
  }
}

TEST_F(ApiKeysLoopback, NoBankIsTheDefaultOne) {
  for (const Method& method : Methods()) {
    if (method.needs != Right::kRead) continue;
    EXPECT_NE(Call("usual", method, "").code(), kDenied) << method.name;
    EXPECT_EQ(Call("reader", method, "").code(), kDenied) << method.name;
  }
}

TEST_F(ApiKeysLoopback, AListHasTheBanksThatMayBeRead) {
  const auto banks = [&](const std::string& who) {
    const auto list = Client(who)->ListBanks(Within(absl::Seconds(60)));
    EXPECT_TRUE(list.ok()) << list.status();
    std::vector<std::string> names;
    for (const BankSpec& bank : *list) names.push_back(bank.name);
    return names;
  };
  EXPECT_THAT(banks("reader"), ElementsAre("notes"));
  EXPECT_EQ(Client("reader")->GetModel(Within(absl::Seconds(60)))->name, "fake");
  EXPECT_EQ(Client("")->GetModel(Within(absl::Seconds(60))).status().code(), kUnauthenticated);
  EXPECT_THAT(banks("all-reader"), ElementsAre("default", "notes", "secret"));
  Give("elsewhere", {{"absent*", Right::kAdmin}});
  keys_->Look();
  EXPECT_THAT(banks("elsewhere"), IsEmpty());
}

TEST_F(ApiKeysLoopback, AKeyThatIsTakenBackOpensNoMore) {
  const auto client = Client("reader");
  EXPECT_TRUE(client->Stats(Within(absl::Seconds(60)), "notes").ok());
  ASSERT_TRUE(auth::ChangeKeys(path_, [](std::vector<ApiKey>* keys) {
                keys->clear();
                return absl::OkStatus();
              }).ok());
  keys_->Look();
  EXPECT_EQ(client->Stats(Within(absl::Seconds(60)), "notes").status().code(), kUnauthenticated);
}

TEST_F(ApiKeysLoopback, AServiceWithoutRulesIsClosed) {
  msa::testing::FakeShard shard;
  const auto server = Serve(static_cast<MemoryShard*>(&shard));
  const auto status = MakeRemoteMemoryShard(Options("all-reader", *server))
                          ->ListBanks(Within(absl::Seconds(60)))
                          .status();
  EXPECT_EQ(status.code(), kDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("msa.v1.ShardService/ListBanks"));
}

TEST_F(ApiKeysLoopback, AMethodWithoutARuleIsClosed) {
  EXPECT_EQ(Admit(*keys_, "msa.v1.MemoryService", "Stats", "Bearer key of reader").status().code(),
            kOk);
  for (const char* method : {"", "stats", "Stats2", "NewMethod"}) {
    EXPECT_EQ(
        Admit(*keys_, "msa.v1.MemoryService", method, "Bearer key of all-reader").status().code(),
        kDenied);
  }
}

TEST_F(ApiKeysLoopback, TheSchemeIsBearer) {
  for (const char* authorization : {"", "key of reader", "Basic key of reader", "Bearer", "Bearer ",
                                    "Bearer  key of reader", "bearer key of reader"}) {
    EXPECT_EQ(Admit(*keys_, "msa.v1.MemoryService", "Stats", authorization).status().code(),
              kUnauthenticated)
        << authorization;
  }
}

TEST_F(ApiKeysLoopback, ComputeNodesSessionsNeedEveryBank) {
  for (const char* method : {"OpenSession", "CloseSession", "Route", "Rank", "GetParts"}) {
    const auto code = [&](const std::string& who) {
      return Admit(*keys_, "msa.v1.RoutingService", method, "Bearer key of " + who).status().code();
    };
    EXPECT_EQ(code("all-reader"), kOk);
    EXPECT_EQ(code("admin"), kDenied) << "of one bank";
    EXPECT_EQ(code("stranger"), kUnauthenticated);
  }
}

TEST_F(ApiKeysLoopback, ACallThatNoKeyLetInIsClosed) {
  const auto guarded = Guarded(&service_);
  for (const Method& method : Methods()) {
    EXPECT_EQ(method.call(*guarded, {}, "notes").code(), kDenied) << method.name;
  }
  EXPECT_THAT(*guarded->ListBanks({}), IsEmpty());
}

TEST_F(ApiKeysLoopback, WithoutKeysEverybodyIsLetIn) {
  const auto server = ServeLoopback(static_cast<MemoryService*>(&service_));
  EXPECT_TRUE(
      MakeRemoteMemoryService(ClientOf(*server))->Stats(Within(absl::Seconds(60)), "secret").ok());
}

TEST(CheckApiKeyTravels, OnlyWhereNobodyReadsIt) {
  RemoteOptions options;
  options.api_key = "k";
  for (const char* address : {"127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/s"}) {
    options.address = address;
    EXPECT_TRUE(CheckApiKeyTravels(options).ok()) << address;
  }
  options.address = "192.0.2.1:1";
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckApiKeyTravels(options)));
  const auto client = MakeRemoteMemoryService(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(client->ListBanks(Within(absl::Seconds(60))).status()));
  options.tls.ca = "ca.pem";
  EXPECT_TRUE(CheckApiKeyTravels(options).ok());
  options.tls.ca = "";
  options.api_key = "";
  EXPECT_TRUE(CheckApiKeyTravels(options).ok());
}

TEST_F(ApiKeysLoopback, APeerOfTheClusterIsNamedWhereItLetsNobodyIn) {
  RemoteOptions options = Options("stranger", *server_);
  options.name = "the router";
  const absl::Status status =
      MakeRemoteMemoryService(options)->ListBanks(Within(absl::Seconds(60))).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("the router (127.0.0.1:"));
}

}  // namespace
}  // namespace msa::rpc

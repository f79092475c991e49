// A whole cluster over sockets: three shards, two compute nodes and a router, each its own server.
// Its answers are those of the same parts called directly.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/limits.h"
#include "common/log.h"
#include "rpc/grpc_server.h"
#include "rpc/remote.h"
#include "tests/router/fake_cluster.h"

namespace msa::router {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<rpc::GrpcServer> Serve(rpc::GrpcServer::Builder& builder) {
  auto server = builder.Start("127.0.0.1:0");
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

rpc::RemoteOptions Client(const rpc::GrpcServer& server, const std::string& name = "") {
  rpc::RemoteOptions options;
  options.address = absl::StrCat("127.0.0.1:", server.port());
  options.name = name;
  return options;
}

class Cluster : public ::testing::Test {
 protected:
  Cluster() : shards_(3) {
    for (int i = 0; i < 3; ++i) {
      rpc::GrpcServer::Builder builder;
      const rpc::ShardPlace place = {i, 3, 1024};
      servers_.push_back(Serve(builder.Add(static_cast<rpc::MemoryShard*>(&shards_[i]), place)));
      remote_shards_.push_back(RemoteShard(i, place));
      shard_pointers_.push_back(remote_shards_.back().get());
      map_.shards.push_back({absl::StrCat("s", i), ""});
    }
    router_ = std::make_unique<Router>(map_, shard_pointers_, std::vector<rpc::ComputeNode*>());
    rpc::GrpcServer::Builder builder;
    builder.Add(static_cast<rpc::MemoryService*>(router_.get()));
    builder.Add(static_cast<rpc::SessionRouter*>(router_.get()));
    router_server_ = Serve(builder);
    remote_router_ = MakeRemoteSessionRouter(Client(*router_server_, "router"));
    for (int i = 0; i < 2; ++i) {
      nodes_.push_back(
          std::make_unique<testing::FakeComputeNode>(shard_pointers_, remote_router_.get()));
      rpc::GrpcServer::Builder node_builder;
      servers_.push_back(Serve(node_builder.Add(static_cast<rpc::ComputeNode*>(nodes_[i].get()))));
      const std::string name = absl::StrCat("compute node 'c", i, "'");
      remote_nodes_.push_back(MakeRemoteComputeNode(Client(*servers_.back(), name)));
      router_->AddComputeNode(absl::StrCat("c", i), remote_nodes_.back().get());
    }
    client_ = MakeRemoteMemoryService(Client(*router_server_));
    ctx_.deadline = absl::Now() + absl::Minutes(2);
  }

  std::unique_ptr<rpc::MemoryShard> RemoteShard(int shard, const rpc::ShardPlace& place) const {
    auto options = Client(*servers_[shard], absl::StrCat("shard 's", shard, "'"));
    options.place = place;
    return MakeRemoteMemoryShard(std::move(options));
  }

  std::vector<rpc::AddResult> Add(const std::vector<rpc::NewDocument>& documents,
                                  const std::string& bank = "default") {
    return Add(*client_, documents, bank);
  }

  std::vector<rpc::AddResult> Add(rpc::MemoryService& service,
                                  const std::vector<rpc::NewDocument>& documents,
                                  const std::string& bank = "default") {
    size_t at = 0;
    std::vector<rpc::AddResult> results;
    stream_ = service.AddDocuments(
        ctx_, bank,
        [&]() -> std::optional<rpc::NewDocument> {
          if (at == documents.size()) return std::nullopt;
          return documents[at++];
        },
        [&](const rpc::AddResult& result) {
          results.push_back(result);
          return true;
        });
    return results;
  }

  std::string Answer(rpc::MemoryService& service, const std::string& question) {
    rpc::GenerateRequest request;
    request.question = question;
    std::string text;
    const absl::Status status =
        service.Generate(ctx_, request, [&text](const rpc::GenerateEvent& event) {
          if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) {
            text += "|" + done->answer + done->finish_reason;
            for (const auto& document : done->documents) {
              absl::StrAppend(&text, " ", document.document_id, "=", document.score);
            }
          } else if (const auto* piece = std::get_if<rpc::TextEvent>(&event)) {
            text += piece->text;
          }
          return true;
        });
    EXPECT_TRUE(status.ok()) << status;
    return text;
  }

  rpc::CallContext ctx_;
  std::vector<testing::FakeShard> shards_;
  rpc::ShardMap map_;
  std::vector<std::unique_ptr<rpc::MemoryShard>> remote_shards_;
  std::vector<rpc::MemoryShard*> shard_pointers_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<rpc::SessionRouter> remote_router_;
  std::vector<std::unique_ptr<testing::FakeComputeNode>> nodes_;
  std::vector<std::unique_ptr<rpc::ComputeNode>> remote_nodes_;
  std::unique_ptr<rpc::MemoryService> client_;
  absl::Status stream_;
  // Last, so first to go: no call is in flight when what it uses goes.
  std::unique_ptr<rpc::GrpcServer> router_server_;
  std::vector<std::unique_ptr<rpc::GrpcServer>> servers_;
};

TEST_F(Cluster, AnswersAsOneProcessDoes) {
  FakeCluster embedded(1);
  embedded.Add(SomeDocuments(50));
  const auto results = Add(SomeDocuments(50));
  ASSERT_TRUE(stream_.ok()) << stream_;
  ASSERT_EQ(results.size(), 50u);
  for (size_t i = 0; i < 50; ++i) {
    EXPECT_TRUE(results[i].status.ok()) << results[i].status;
    EXPECT_EQ(results[i].index, i);
  }
  for (const char* question : {"one", "two", "drei"}) {
    EXPECT_EQ(Answer(*client_, question), Answer(*embedded.router, question));
  }
  const auto deleted = client_->DeleteDocuments(ctx_, "default", {"doc-3", "nothing"});
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_EQ(deleted->at(0).revision, 1u);
  EXPECT_EQ(deleted->at(1).status.code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(embedded.router->DeleteDocuments(embedded.ctx, "default", {"doc-3"}).ok());
  EXPECT_EQ(Answer(*client_, "one"), Answer(*embedded.router, "one"));
  const auto got = client_->GetDocument(ctx_, "default", "doc-6");
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(got->info.title, "title 6");
  const auto page = client_->ListDocuments(ctx_, "default", 10, "");
  ASSERT_EQ(page->documents.size(), 10u);
  EXPECT_FALSE(page->next_page_token.empty());
  const auto stats = client_->Stats(ctx_, "");
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->shards.size(), 3u);
  rpc::RetrieveRequest retrieve;
  retrieve.question = "one";
  retrieve.limit = 4;
  const auto found = client_->Retrieve(ctx_, retrieve);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->documents.size(), 4u);
  for (auto& shard : shards_) EXPECT_EQ(shard.open_snapshots(), 0u);
}

TEST_F(Cluster, LogLinesHaveTheRequestIdOfTheClientsCallOnEveryNode) {
  absl::Mutex mutex;
  std::map<std::string, int> lines;  // by id
  const auto note = [&](const std::string&, const rpc::CallContext&) {
    absl::MutexLock lock(&mutex);
    ++lines[CurrentRequestId()];
    return absl::OkStatus();
  };
  for (auto& shard : shards_) shard.before = note;
  for (auto& node : nodes_) node->before = note;
  ctx_.request_id = "9f2c";
  Add(SomeDocuments(6));
  Answer(*client_, "one");
  ASSERT_TRUE(client_->ListDocuments(ctx_, "default", 10, "").ok());
  absl::MutexLock lock(&mutex);
  EXPECT_GT(lines["9f2c"], 20);
  EXPECT_EQ(lines.size(), 1u);
}

TEST_F(Cluster, ANodeThatSaysItDoesNotFitIsPassedOver) {
  Add(SomeDocuments(5));
  nodes_[1]->before = [](const std::string& method, const rpc::CallContext&) {
    return method == "Generate" ? rpc::AboutNode(absl::FailedPreconditionError("another model"))
                                : absl::OkStatus();
  };
  for (int i = 0; i < 4; ++i) EXPECT_FALSE(Answer(*client_, "one").empty());
}

TEST_F(Cluster, BanksOverTheWire) {
  rpc::BankOptions options;
  options.part_tokens = 33;
  const auto made = client_->CreateBank(ctx_, "b", options);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->part_tokens, 33);
  EXPECT_EQ(client_->CreateBank(ctx_, "b", {}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(*client_->ListBanks(ctx_), std::vector<rpc::BankSpec>{*made});
  EXPECT_TRUE(client_->DeleteBank(ctx_, "b").ok());
  EXPECT_EQ(client_->DeleteBank(ctx_, "b").code(), absl::StatusCode::kNotFound);
}

TEST_F(Cluster, BadInputIsRefusedInWordsAndTheRestGoesOn) {
  std::vector<rpc::NewDocument> documents = SomeDocuments(8);
  documents[1].text = "broken \xFF utf-8";
  documents[2].id = std::string(10240, 'x');
  documents[3].id = "doc-0";
  documents[4].id = "bro\xC3ken";
  documents[5].text = std::string("nul \0 is text", 13);
  documents[6].metadata = "not json";
  const auto results = Add(documents);
  ASSERT_TRUE(stream_.ok()) << stream_;
  ASSERT_EQ(results.size(), 8u);
  const bool good[] = {true, false, false, false, false, true, false, true};
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(results[i].status.code(),
              good[i] ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument)
        << i << results[i].status;
  }
  EXPECT_THAT(std::string(results[1].status.message()), HasSubstr("UTF-8 at byte 7"));
  for (const std::string& question :
       {std::string(), std::string("\xFF"), std::string(10u << 20, 'q')}) {
    rpc::GenerateRequest request;
    request.question = question;
    const absl::Status status =
        client_->Generate(ctx_, request, [](const rpc::GenerateEvent&) { return true; });
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("question"));
  }
  // A name is a `string` on the wire.
  EXPECT_EQ(client_->DeleteBank(ctx_, "\xFF").code(), absl::StatusCode::kInvalidArgument);
  Add(SomeDocuments(1), "none");
  EXPECT_EQ(stream_.code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(Answer(*client_, "still here?").empty());
}

TEST_F(Cluster, AScanOfALaterVersionIsRefused) {
  Add(SomeDocuments(3));
  const auto later = static_cast<rpc::Scan>(77);
  rpc::GenerateRequest generate;
  generate.question = "one";
  generate.scan = later;
  rpc::RetrieveRequest retrieve;
  retrieve.question = "one";
  retrieve.limit = 1;
  retrieve.scan = later;
  for (const absl::Status& status :
       {client_->Generate(ctx_, generate, [](const rpc::GenerateEvent&) { return true; }),
        client_->Retrieve(ctx_, retrieve).status(),
        remote_router_->OpenSession(ctx_, "default", {false, later, {}}).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("scan is 77"));
  }
}

TEST_F(Cluster, AnIdThatIsTooLongIsSentBackAsWholeCharacters) {
  std::vector<rpc::NewDocument> documents = SomeDocuments(2);
  documents[0].id = "x";  // one byte, so that the limit falls inside a character
  while (documents[0].id.size() <= kMaxDocumentIdBytes) documents[0].id += "é";
  const auto results = Add(documents);
  EXPECT_TRUE(stream_.ok()) << stream_;
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(results[0].id, documents[0].id.substr(0, kMaxDocumentIdBytes - 1));
  EXPECT_TRUE(results[1].status.ok()) << results[1].status;
  const auto deleted = client_->DeleteDocuments(ctx_, "default", {documents[0].id});
  ASSERT_TRUE(deleted.ok()) << deleted.status();
  EXPECT_EQ(deleted->front().id, results[0].id);
}

TEST_F(Cluster, ARouterWithAnotherMapIsRefused) {
  Add(SomeDocuments(20));
  const auto ids = [this] {
    const auto page = client_->ListDocuments(ctx_, "default", 100, "");
    EXPECT_TRUE(page.ok()) << page.status();
    std::vector<std::string> ids;
    for (const auto& document : page->documents) ids.push_back(document.id);
    return ids;
  };
  const std::vector<std::string> before = ids();
  ASSERT_EQ(before.size(), 20u);

  rpc::ShardMap reordered;
  std::vector<std::unique_ptr<rpc::MemoryShard>> remotes;
  std::vector<rpc::MemoryShard*> pointers;
  for (int i : {1, 0, 2}) {
    reordered.shards.push_back(map_.shards[i]);
    remotes.push_back(RemoteShard(i, {static_cast<int32_t>(pointers.size()), 3, 1024}));
    pointers.push_back(remotes.back().get());
  }
  testing::FakeComputeNode node(pointers);
  Router router(reordered, pointers, {&node});
  node.router = &router;
  int refused = 0;
  const auto expect_refused = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << refused << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("shard 's")) << refused;
    ++refused;
  };
  expect_refused(router.Repair(ctx_));
  expect_refused(router.CreateBank(ctx_, "b", {}).status());
  Add(router, SomeDocuments(20));
  expect_refused(stream_);
  expect_refused(router.DeleteDocuments(ctx_, "default", {"doc-3"}).status());
  rpc::RetrieveRequest retrieve;
  retrieve.question = "one";
  retrieve.limit = 4;
  retrieve.allow_partial = true;
  expect_refused(router.Retrieve(ctx_, retrieve).status());
  // Of those on the two shards that changed places; the third has its own.
  int missing = 0;
  for (const std::string& id : before) {
    const absl::Status status = router.GetDocument(ctx_, "default", id).status();
    if (map_.ShardOf(id) == 2) {
      EXPECT_TRUE(status.ok()) << status;
    } else {
      expect_refused(status);
      ++missing;
    }
  }
  EXPECT_GT(missing, 0);
  EXPECT_EQ(ids(), before);
  for (auto& shard : shards_) EXPECT_EQ(shard.open_snapshots(), 0u);
}

TEST_F(Cluster, DeadShardIsNamed) {
  Add(SomeDocuments(20));
  servers_[1].reset();
  rpc::GenerateRequest request;
  request.question = "q";
  std::vector<std::string> missing;
  const auto sink = [&missing](const rpc::GenerateEvent& event) {
    if (const auto* done = std::get_if<rpc::DoneEvent>(&event)) missing = done->missing_shards;
    return true;
  };
  const absl::Status status = client_->Generate(ctx_, request, sink);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("shard 's1'"));
  request.allow_partial = true;
  const absl::Status partial = client_->Generate(ctx_, request, sink);
  EXPECT_TRUE(partial.ok()) << partial;
  EXPECT_THAT(missing, ElementsAre("s1"));
}

TEST_F(Cluster, DeadComputeNodeIsPassedOver) {
  Add(SomeDocuments(5));
  servers_[3].reset();  // compute node c0
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Answer(*client_, "q").empty());
  EXPECT_EQ(Add(SomeDocuments(5)).size(), 5u);
  EXPECT_TRUE(stream_.ok()) << stream_;
  servers_[4].reset();
  rpc::GenerateRequest request;
  request.question = "q";
  const absl::Status status =
      client_->Generate(ctx_, request, [](const rpc::GenerateEvent&) { return true; });
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("compute node 'c"));
}

// The client leaves mid-answer: the compute node sees it, the session is closed.
TEST_F(Cluster, AClientThatLeavesStopsTheWork) {
  Add(SomeDocuments(5));
  absl::Notification stopped;
  for (auto& node : nodes_) {
    node->midway = [&stopped](const rpc::CallContext& ctx) {
      const absl::Status status = testing::HangUntilDeadline(ctx);
      stopped.Notify();
      return status;
    };
  }
  rpc::GenerateRequest request;
  request.question = "q";
  const absl::Status status =
      client_->Generate(ctx_, request, [](const rpc::GenerateEvent&) { return false; });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(stopped.WaitForNotificationWithTimeout(absl::Seconds(60)));
}

// Results arrive while the client has not sent its next document yet.
TEST_F(Cluster, AddsAreAcknowledgedOneByOne) {
  absl::Notification reported;
  int sent = 0;
  const absl::Status status = client_->AddDocuments(
      ctx_, "default",
      [&]() -> std::optional<rpc::NewDocument> {
        if (sent++ == 0) return rpc::NewDocument{"a", "", "text", ""};
        EXPECT_TRUE(reported.WaitForNotificationWithTimeout(absl::Seconds(60)));
        return std::nullopt;
      },
      [&](const rpc::AddResult& result) {
        EXPECT_TRUE(result.status.ok()) << result.status;
        reported.Notify();
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
}

// `msa add -` may wait for its user for days.
TEST_F(Cluster, AStreamThatWaitsForDocumentsKeepsNoQuestionWaiting) {
  rpc::GrpcServer::Builder builder({.threads = 1, .queue = 0});
  const auto server = Serve(builder.Add(static_cast<rpc::MemoryService*>(router_.get())));
  const auto client = MakeRemoteMemoryService(Client(*server));
  absl::Notification added, over;
  std::thread idle([&] {
    bool sent = false;
    const absl::Status status = client->AddDocuments(
        ctx_, "default",
        [&]() -> std::optional<rpc::NewDocument> {
          if (!std::exchange(sent, true)) return SomeDocuments(1)[0];
          over.WaitForNotification();
          return std::nullopt;
        },
        [&](const rpc::AddResult&) {
          added.Notify();
          return true;
        });
    EXPECT_TRUE(status.ok()) << status;
  });
  added.WaitForNotification();
  EXPECT_FALSE(Answer(*client, "still here?").empty());
  over.Notify();
  idle.join();
}

TEST_F(Cluster, ManyClientsAtOnce) {
  Add(SomeDocuments(20));
  const std::string expected = Answer(*client_, "q");
  std::vector<std::thread> threads;
  for (int t = 0; t < 12; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) EXPECT_EQ(Answer(*client_, "q"), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(Cluster, ReflectionIsServedOnRequest) {
  rpc::GrpcServer::Builder builder({.reflection = true});
  const auto server =
      builder.Add(static_cast<rpc::MemoryService*>(router_.get())).Start("127.0.0.1:0");
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_TRUE(CheckHealth(Client(**server), ctx_, "msa.v1.MemoryService").ok());
}

}  // namespace
}  // namespace msa::router

// What a node tells of documents and questions to whoever counts them.
#include "compute_node/observer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "compute_node/node.h"
#include "memory_node/document_store.h"
#include "memory_node/shard.h"
#include "router/router.h"
#include "tests/compute_node/added_documents.h"
#include "tests/compute_node/tiny_model.h"

namespace msa::compute_node {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Writes down what it hears.
class Ledger : public Observer {
 public:
  void OnAnswered(const rpc::DoneEvent& done) override { answered.push_back(done); }
  void OnUnanswered(absl::StatusCode code) override { unanswered.push_back(code); }
  void OnRetrieved(const rpc::RetrieveReply& reply) override { retrieved.push_back(reply); }
  void OnEncoded(int64_t tokens, absl::Duration took) override {
    EXPECT_GT(took, absl::ZeroDuration());
    ++documents;
    encoded_tokens += tokens;
  }

  std::vector<rpc::DoneEvent> answered;
  std::vector<absl::StatusCode> unanswered;
  std::vector<rpc::RetrieveReply> retrieved;
  int documents = 0;
  int64_t encoded_tokens = 0;
};

class ObserverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    node_ = *Node::Load(TinyModel(), *backend_);
    memory_node::ShardOptions in_memory;
    in_memory.background = false;
    shard_ =
        *memory_node::LocalShard::Open(memory_node::MakeMemoryStore(), backend_.get(), in_memory);
    router_ = std::make_unique<router::Router>(rpc::ShardMap::Embedded(),
                                               std::vector<rpc::MemoryShard*>{shard_.get()},
                                               std::vector<rpc::ComputeNode*>{node_.get()});
    node_->Attach(router_.get(), {shard_.get()});
    node_->Observe(&ledger_);
    question_.question = "Where is the coin?";
    question_.bank = "default";
    question_.max_new_tokens = 4;
    AddDocuments(*router_, "default", 3);
  }

  std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("cpu", 1);
  Ledger ledger_;
  std::unique_ptr<Node> node_;
  std::unique_ptr<memory_node::LocalShard> shard_;
  std::unique_ptr<router::Router> router_;
  rpc::GenerateRequest question_;
};

TEST_F(ObserverTest, HearsOfDocumentsWithTheTokensThatAreStored) {
  EXPECT_EQ(ledger_.documents, 3);
  EXPECT_EQ(ledger_.encoded_tokens, shard_->Stats({}, "default")->num_tokens);
  rpc::EncodeRequest others;
  others.bank.model_fingerprint = "another";
  EXPECT_FALSE(node_->EncodeDocument({}, others).ok());
  EXPECT_EQ(ledger_.documents, 3);
}

TEST_F(ObserverTest, HearsOfAnAnswerOnceAndWhatItsClientHears) {
  rpc::DoneEvent done;
  const absl::Status status = node_->Generate({}, question_, [&](const rpc::GenerateEvent& event) {
    if (std::holds_alternative<rpc::DoneEvent>(event)) done = std::get<rpc::DoneEvent>(event);
    return true;
  });
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(ledger_.answered.size(), 1u);
  EXPECT_EQ(ledger_.answered[0].finish_reason, done.finish_reason);
  EXPECT_EQ(ledger_.answered[0].usage.generated_tokens, done.usage.generated_tokens);
  EXPECT_EQ(ledger_.answered[0].timings.total, done.timings.total);
  EXPECT_THAT(ledger_.unanswered, IsEmpty());
}

TEST_F(ObserverTest, HearsOfAQuestionWithoutAnswerOnce) {
  const auto leave = [](const rpc::GenerateEvent&) { return false; };
  EXPECT_TRUE(absl::IsCancelled(node_->Generate({}, question_, leave)));
  question_.bank = "none";
  const auto stay = [](const rpc::GenerateEvent&) { return true; };
  EXPECT_TRUE(absl::IsNotFound(node_->Generate({}, question_, stay)));
  EXPECT_THAT(ledger_.unanswered,
              ElementsAre(absl::StatusCode::kCancelled, absl::StatusCode::kNotFound));
  EXPECT_THAT(ledger_.answered, IsEmpty());
}

TEST_F(ObserverTest, HearsOfWhatIsRetrieved) {
  rpc::RetrieveRequest request;
  request.question = "Where is the coin?";
  request.bank = "default";
  request.limit = 2;
  const auto reply = node_->Retrieve({}, request);
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_EQ(ledger_.retrieved.size(), 1u);
  EXPECT_EQ(ledger_.retrieved[0].timings.total, reply->timings.total);
  request.bank = "none";
  EXPECT_FALSE(node_->Retrieve({}, request).ok());
  EXPECT_EQ(ledger_.retrieved.size(), 1u);
}

}  // namespace
}  // namespace msa::compute_node

// What a peer in error may send a compute node: a clear status, and the node lives on.
#include "compute_node/node.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "tests/compute_node/tiny_model.h"
#include "tests/support/fake_shard.h"

namespace msa::compute_node {
namespace {

using ::testing::HasSubstr;

class NodeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto node = Node::Load(TinyModel(), *backend_);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    node_->Attach(nullptr, {&shard_});
    request_.bank = node_->Info({})->default_bank;
    request_.bank.name = "b";
    request_.bank.uid = 7;
    request_.bank.routing_dtype = request_.bank.content_dtype = DType::kFloat32;
    ASSERT_TRUE(shard_.CreateBank({}, request_.bank).ok());
    request_.document.id = "d";
    request_.document.text = "lost closed coin";
    request_.parts = {{0, request_.document.text.size()}};
  }

  absl::StatusCode Encode(const std::function<void(rpc::EncodeRequest&)>& change) {
    rpc::EncodeRequest request = request_;
    change(request);
    return node_->EncodeDocument({}, request).status().code();
  }

  std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("cpu", 1);
  testing::FakeShard shard_;
  std::unique_ptr<Node> node_;
  rpc::EncodeRequest request_;
};

TEST_F(NodeTest, EncodesOnlyForBanksThatItsModelFits) {
  using Request = rpc::EncodeRequest;
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(Encode([](Request&) {}), absl::StatusCode::kOk);
  rpc::EncodeRequest others = request_;
  others.bank.model_fingerprint = "another";
  const absl::Status status = node_->EncodeDocument({}, others).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(rpc::IsAboutNode(status));
  EXPECT_EQ(Encode([](Request& r) { r.bank.routing_dtype = DType::kFloat16; }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.bank.content_dtype = DType::kFloat16; }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.bank.routing_chunk_tokens = 0; }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.bank.content_chunk_tokens = -4; }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.bank.content_chunk_tokens = INT32_MAX; }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.bank.router_layers.push_back(99); }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.bank.routing.head_dim *= 2; }), kBad);
}

// Each of a million parts that are all of the text would be a copy of it.
TEST_F(NodeTest, RefusesPartsThatOverlap) {
  using Request = rpc::EncodeRequest;
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(Encode([](Request& r) { r.parts = {{0, 4}, {5, 16}}; }), absl::StatusCode::kOk);
  EXPECT_EQ(Encode([](Request& r) { r.parts = {{0, 5}, {4, 16}}; }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.parts = {{5, 16}, {0, 5}}; }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.parts = {{0, 16}, {16, 16}}; }), kBad);
  EXPECT_EQ(Encode([](Request& r) { r.parts = {{0, 17}}; }), kBad);
  EXPECT_EQ(Encode([](Request& r) {
              r.document.id = "empty";
              r.document.text = "";
              r.first_reference = 100;
              r.parts = {{0, 0}};
            }),
            absl::StatusCode::kOk);
}

TEST_F(NodeTest, EncodesOnlyWithTheWeightsOfABanksOthers) {
  using Request = rpc::EncodeRequest;
  EXPECT_EQ(request_.bank.weights_dtype, DType::kFloat32);
  EXPECT_EQ(Encode([](Request& r) { r.bank.weights_dtype.reset(); }), absl::StatusCode::kOk);
  rpc::EncodeRequest other = request_;
  other.bank.weights_dtype = DType::kInt8;
  const absl::Status status = node_->EncodeDocument({}, other).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("start it with --weights int8"));
  EXPECT_TRUE(rpc::IsAboutNode(status));
}

TEST_F(NodeTest, SplitsOnlyIntoPartsOfAllowedSize) {
  for (int32_t tokens :
       {std::numeric_limits<int32_t>::min(), -1, 0, 1, std::numeric_limits<int32_t>::max()}) {
    EXPECT_EQ(node_->SplitDocument({}, "a coin", tokens).status().code(),
              absl::StatusCode::kInvalidArgument)
        << tokens;
  }
  EXPECT_TRUE(node_->SplitDocument({}, "a coin", 64).ok());
}

}  // namespace
}  // namespace msa::compute_node

// Oracles: pooling and normalising by hand, in double precision; of documents that are encoded
// together, each alone.
#include "compute_node/encoder.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "absl/synchronization/notification.h"
#include "common/block_layout.h"
#include "compute_node/encoded_pass.h"
#include "compute_node/node.h"
#include "gtest/gtest.h"
#include "kernels/forwarding_backend.h"
#include "tests/compute_node/tiny_model.h"

namespace msa::compute_node {
namespace {

constexpr int kHeads = 2, kDim = 4, kWidth = kHeads * kDim;

rpc::BankSpec Bank(DType dtype) {
  rpc::BankSpec bank;
  bank.routing.num_q_heads = 4;
  bank.routing.num_kv_heads = kHeads;
  bank.routing.head_dim = kDim;
  bank.routing_chunk_tokens = 4;
  bank.content_chunk_tokens = 2;
  bank.routing_dtype = dtype;
  bank.content_dtype = dtype;
  return bank;
}

std::vector<float> Random(int tokens) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(tokens * kWidth);
  for (float& value : values) value = normal(random);
  return values;
}

// Mean over the rows of one chunk.
std::vector<double> Mean(const std::vector<float>& x, int begin, int end) {
  std::vector<double> mean(kWidth);
  for (int t = begin; t < end; ++t) {
    for (int i = 0; i < kWidth; ++i) mean[i] += x[t * kWidth + i] / double(end - begin);
  }
  return mean;
}

class EncodedPassTest : public ::testing::Test {
 protected:
  // Two layers of documents of these many tokens; the second has the rows of the first negated.
  std::shared_ptr<EncodedPass> Pass(const rpc::BankSpec& bank, bool cosine,
                                    const std::vector<int64_t>& part_tokens,
                                    const std::vector<float>& keys, const std::vector<float>& k,
                                    const std::vector<float>& v) {
    auto pass = *EncodedPass::Make(*backend_, PoolingSpec::Of(bank), cosine, part_tokens, 2);
    kernels::PoolPackedArgs pool;
    pool.chunk_begin = pass->routing_chunks();
    pool.num_heads = 1;
    pool.head_dim = kWidth;
    std::vector<float> means((pool.chunk_begin.size() - 1) * kWidth), negated(keys.size());
    pool.x = keys.data();
    pool.out = means.data();
    backend_->PoolPacked(pool);
    pass->AddLayer(means.data(), k.data(), v.data());
    for (size_t i = 0; i < keys.size(); ++i) negated[i] = -keys[i];
    for (float& mean : means) mean = -mean;
    pass->AddLayer(means.data(), negated.data(), v.data());
    EXPECT_TRUE(pass->StartFetch().ok());
    pass->Wait();
    return pass;
  }
  std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("cpu", 1);
};

TEST_F(EncodedPassTest, RoutingPoolsAndNormalisesTheShortLastChunkToo) {
  const rpc::BankSpec bank = Bank(DType::kFloat32);
  const std::vector<float> keys = Random(9);
  const std::string block = Pass(bank, /*cosine=*/true, {9}, keys, keys, keys)->Routing(0, 0);
  ASSERT_EQ(block.size(), 3 * kWidth * sizeof(float));
  std::vector<float> actual(3 * kWidth);
  std::memcpy(actual.data(), block.data(), block.size());
  for (int chunk = 0; chunk < 3; ++chunk) {
    const std::vector<double> mean = Mean(keys, chunk * 4, std::min(9, chunk * 4 + 4));
    for (int head = 0; head < kHeads; ++head) {
      double norm = 0;
      for (int i = 0; i < kDim; ++i) norm += mean[head * kDim + i] * mean[head * kDim + i];
      for (int i = 0; i < kDim; ++i) {
        EXPECT_NEAR(actual[chunk * kWidth + head * kDim + i],
                    mean[head * kDim + i] / std::sqrt(norm), 1e-6);
      }
    }
  }
}

TEST_F(EncodedPassTest, WithoutCosineKeysKeepTheirLength) {
  const rpc::BankSpec bank = Bank(DType::kFloat32);
  const std::vector<float> keys = Random(4);
  const std::string block = Pass(bank, false, {4}, keys, keys, keys)->Routing(0, 0);
  float first;
  std::memcpy(&first, block.data(), sizeof(first));
  EXPECT_NEAR(first, Mean(keys, 0, 4)[0], 1e-6);
}

TEST_F(EncodedPassTest, ContentHasItsOwnChunkSizeAndAScaleAHead) {
  const rpc::BankSpec bank = Bank(DType::kInt8);
  const std::vector<float> k = Random(5), v(5 * kWidth, 2.0f);
  const std::string block = Pass(bank, true, {5}, k, k, v)->Content(0, 0);
  const ContentBlockLayout layout(DType::kInt8, 3, kHeads, kDim);
  ASSERT_EQ(block.size(), layout.size);
  const auto* k_scales = reinterpret_cast<const float*>(block.data() + layout.k_scales_offset);
  const auto* v_scales = reinterpret_cast<const float*>(block.data() + layout.v_scales_offset);
  const auto* k8 = reinterpret_cast<const int8_t*>(block.data());
  for (int chunk = 0; chunk < 3; ++chunk) {
    const std::vector<double> mean = Mean(k, chunk * 2, std::min(5, chunk * 2 + 2));
    for (int i = 0; i < kWidth; ++i) {
      const float scale = k_scales[chunk * kHeads + i / kDim];
      EXPECT_NEAR(k8[chunk * kWidth + i] * scale, mean[i], scale * 0.501);
    }
    EXPECT_FLOAT_EQ(v_scales[chunk * kHeads], 2.0f / 127);
  }
}

TEST_F(EncodedPassTest, DocumentsOfAPassAreWhatEachWouldBeAlone) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt8, DType::kFloat8}) {
    const rpc::BankSpec bank = Bank(dtype);
    const std::vector<float> rows = Random(9 + 1 + 6);
    const std::vector<int64_t> part_tokens = {9, 1, 6};
    const auto together = Pass(bank, true, part_tokens, rows, rows, rows);
    size_t row = 0;
    for (size_t part = 0; part < part_tokens.size(); ++part) {
      const std::vector<float> own(rows.begin() + row * kWidth,
                                   rows.begin() + (row + part_tokens[part]) * kWidth);
      const auto alone = Pass(bank, true, {part_tokens[part]}, own, own, own);
      for (int layer = 0; layer < 2; ++layer) {
        EXPECT_EQ(together->Routing(layer, part), alone->Routing(layer, 0));
        EXPECT_EQ(together->Content(layer, part), alone->Content(layer, 0));
      }
      EXPECT_NE(together->Content(0, part), together->Content(1, part));
      row += part_tokens[part];
    }
  }
}

// Counts the layers that attend: so many a pass.
class CountingBackend : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  void Attend(absl::Span<const kernels::AttentionArgs> sequences) const override {
    ++attended;
    if (at_attend) at_attend();
    ForwardingBackend::Attend(sequences);
  }
  mutable std::atomic<int> attended = 0;
  std::function<void()> at_attend;
};

class DocumentEncoderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto node = Node::Load(TinyModel(), counting_);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    bank_ = node_->Info({})->default_bank;
    gone_.cancelled = [this] { return left_.load(); };
    counting_.attended = 0;
    const std::vector<rpc::EncodedPart> part = Encode(Book(1));
    layers_ = counting_.attended.exchange(0);
    ASSERT_GT(part[0].num_tokens, 512) << "a batch of 1,024 takes one";
  }

  // As it is, each part has a pass of its own.
  static std::vector<ReferencedText> Book(int parts, int sentences = 200) {
    std::vector<ReferencedText> texts;
    for (int part = 0; part < parts; ++part) {
      std::string& text = texts.emplace_back(ReferencedText{part, ""}).text;
      for (int i = 0; i < sentences; ++i) text += " lost closed coin west " + std::to_string(part);
    }
    return texts;
  }
  std::vector<rpc::EncodedPart> Encode(const std::vector<ReferencedText>& texts) {
    auto parts = node_->encoder().Encode({}, bank_, texts);
    EXPECT_TRUE(parts.ok()) << parts.status();
    return parts.ok() ? *std::move(parts) : std::vector<rpc::EncodedPart>();
  }

  static void ExpectSame(const std::vector<rpc::EncodedPart>& parts,
                         const std::vector<rpc::EncodedPart>& expected) {
    ASSERT_EQ(parts.size(), expected.size());
    for (size_t part = 0; part < parts.size(); ++part) {
      ASSERT_EQ(parts[part].layers.size(), expected[part].layers.size());
      for (size_t layer = 0; layer < parts[part].layers.size(); ++layer) {
        const rpc::EncodedLayer& encoded = parts[part].layers[layer];
        EXPECT_EQ(encoded.routing.view(), expected[part].layers[layer].routing.view());
        EXPECT_EQ(encoded.content.view(), expected[part].layers[layer].content.view());
      }
    }
  }

  const std::unique_ptr<kernels::Backend> cpu_ = *kernels::MakeBackend("cpu", 1);
  CountingBackend counting_{*cpu_};
  std::unique_ptr<Node> node_;
  rpc::BankSpec bank_;
  int layers_ = 0;  // of a pass
  std::atomic<bool> left_ = false;
  rpc::CallContext gone_;  // its client left when left_
};

TEST_F(DocumentEncoderTest, NothingIsEncodedForAClientThatHasLeftOrIsLate) {
  left_ = true;
  EXPECT_TRUE(absl::IsCancelled(node_->encoder().Encode(gone_, bank_, Book(1)).status()));
  rpc::CallContext late;
  late.deadline = absl::InfinitePast();
  EXPECT_TRUE(absl::IsDeadlineExceeded(node_->encoder().Encode(late, bank_, Book(1)).status()));
  EXPECT_EQ(counting_.attended, 0);
}

TEST_F(DocumentEncoderTest, AClientThatLeavesDuringAPassIsGivenUpAfterIt) {
  node_->Attach(nullptr, {nullptr});  // a shard that nothing may be put on
  counting_.at_attend = [this] { left_ = true; };
  rpc::EncodeRequest request;
  request.bank = bank_;
  for (const ReferencedText& part : Book(3)) {
    const size_t begin = request.document.text.size();
    request.document.text += part.text;
    request.parts.push_back({begin, request.document.text.size()});
  }
  EXPECT_TRUE(absl::IsCancelled(node_->EncodeDocument(gone_, request).status()));
  EXPECT_EQ(counting_.attended, layers_) << "one pass";
}

// All wait behind a pass and are one batch: `leaver`, whose bank wants a pass of its own, between
// two others. Its client leaves in the pass of the first.
TEST_F(DocumentEncoderTest, WhoIsInABatchWithAClientThatLeavesIsEncodedAsAlone) {
  const std::vector<ReferencedText> text = Book(1, 20);
  const std::vector<rpc::EncodedPart> alone = Encode(text);
  rpc::BankSpec other = bank_;
  other.content_chunk_tokens *= 2;
  absl::Notification began, go;
  counting_.attended = 0;
  counting_.at_attend = [&] {
    if (counting_.attended == 1) {
      began.Notify();
      go.WaitForNotification();
    }
    if (counting_.attended == layers_ + 1) left_ = true;
  };
  std::vector<std::thread> threads;
  const auto start = [&](std::function<void()> call) {
    threads.emplace_back(std::move(call));
    while (node_->encoder().waiting() + 1 < threads.size()) std::this_thread::yield();
  };
  std::vector<rpc::EncodedPart> first, last;
  start([&] { Encode(text); });
  began.WaitForNotification();
  start([&] { first = Encode(text); });
  start([&] {
    EXPECT_TRUE(absl::IsCancelled(node_->encoder().Encode(gone_, other, text).status()));
  });
  start([&] { last = Encode(text); });
  go.Notify();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counting_.attended, 3 * layers_) << "none for the client that left";
  ExpectSame(first, alone);
  ExpectSame(last, alone);
}

}  // namespace
}  // namespace msa::compute_node

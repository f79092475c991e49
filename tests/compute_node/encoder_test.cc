// Oracle: pooling and normalising by hand, in double precision.
#include <cmath>
#include <cstring>
#include <random>

#include "common/block_layout.h"
#include "compute_node/encoded_pass.h"
#include "gtest/gtest.h"

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
    pass->Fetch();
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

}  // namespace
}  // namespace msa::compute_node

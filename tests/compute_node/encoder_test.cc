// Oracle: pooling and normalising by hand, in double precision.
#include "compute_node/encoder.h"

#include <cmath>
#include <cstring>
#include <random>

#include "common/block_layout.h"
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

class BlockBuilderTest : public ::testing::Test {
 protected:
  std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("cpu", 1);
};

TEST_F(BlockBuilderTest, RoutingPoolsAndNormalisesTheShortLastChunkToo) {
  const rpc::BankSpec bank = Bank(DType::kFloat32);
  const std::vector<float> keys = Random(9);
  const std::string block = *BlockBuilder(*backend_, bank, /*cosine=*/true).Routing(keys.data(), 9);
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

TEST_F(BlockBuilderTest, WithoutCosineKeysKeepTheirLength) {
  const rpc::BankSpec bank = Bank(DType::kFloat32);
  const std::vector<float> keys = Random(4);
  const std::string block = *BlockBuilder(*backend_, bank, false).Routing(keys.data(), 4);
  float first;
  std::memcpy(&first, block.data(), sizeof(first));
  EXPECT_NEAR(first, Mean(keys, 0, 4)[0], 1e-6);
}

TEST_F(BlockBuilderTest, ContentHasItsOwnChunkSizeAndAScaleAHead) {
  const rpc::BankSpec bank = Bank(DType::kInt8);
  const std::vector<float> k = Random(5), v(5 * kWidth, 2.0f);
  const std::string block = *BlockBuilder(*backend_, bank, true).Content(k.data(), v.data(), 5);
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

}  // namespace
}  // namespace msa::compute_node

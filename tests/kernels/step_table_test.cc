// The table of decode steps: launches made once find every set of sequences where they look.
#include "kernels/cuda/step_table.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/attention_table.h"

namespace msa::kernels::cuda {
namespace {

alignas(16) uint8_t g_memory[1 << 12];  // stands for device memory: never read

constexpr int kLayers = 3;
constexpr int kMaxSequences = 8;

AttentionKv Kv(int64_t num_tokens, int place) {
  AttentionKv kv;
  kv.k = g_memory + 32 * place;
  kv.v = g_memory + 32 * place + 16;
  kv.num_tokens = num_tokens;
  kv.type = ElementType::kBFloat16;
  return kv;
}

class StepTableTest : public ::testing::TestWithParam<AttentionPrecision> {
 protected:
  StepTableTest()
      : table_(Shape(), kLayers, kMaxSequences, reinterpret_cast<const float*>(g_memory),
               reinterpret_cast<float*>(g_memory)) {}

  static AttentionShape Shape() {
    AttentionShape shape;
    shape.num_q_heads = 32;
    shape.num_kv_heads = 8;
    shape.head_dim = 128;
    shape.precision = GetParam();
    return shape;
  }

  // Sequences with room for these many rows; in the last layer a block of 9 rows before them.
  void Set(const std::vector<int64_t>& capacities) {
    table_.Begin();
    const std::vector<AttentionKv> block = {Kv(9, 100)};
    for (int layer = 0; layer < kLayers; ++layer) {
      std::vector<StepInput> inputs;
      for (size_t i = 0; i < capacities.size(); ++i) {
        inputs.push_back({{}, Kv(capacities[i], static_cast<int>(10 * layer + i))});
        if (layer == kLayers - 1) inputs.back().blocks = block;
      }
      ASSERT_TRUE(table_.SetLayer(layer, inputs));
    }
    device_.assign(table_.fixed_part().begin(), table_.fixed_part().end());
    device_.insert(device_.end(), table_.views().begin(), table_.views().end());
  }

  // Entry i of an array of the device's copy, where a launch of `layer` looks for it.
  template <class T>
  T At(int layer, size_t offset, int i) const {
    T entry;
    std::memcpy(&entry, device_.data() + table_.LayerOffset(layer) + offset + i * sizeof(T),
                sizeof(T));
    return entry;
  }

  // Every split of every sequence is in one item; other items are of no sequence.
  void CheckItems(int layer, int rows) const {
    const AttentionLaunch launch = table_.Launch(layer, rows);
    std::vector<int> splits(rows, 0);
    for (int i = 0; i < launch.num_decode_items; ++i) {
      const auto item = At<TableItem>(layer, launch.decode_offset, i);
      if (item.sequence < 0) continue;
      ASSERT_LT(item.sequence, rows);
      EXPECT_EQ(item.split, splits[item.sequence]);
      splits[item.sequence] += item.num_splits;
      const auto s = At<TableSequence>(layer, 0, item.sequence);
      EXPECT_EQ(item.first_view, s.first_view);
      EXPECT_EQ(item.num_views, s.num_views);
    }
    for (int i = 0; i < rows; ++i) {
      EXPECT_EQ(splits[i], At<TableSequence>(layer, 0, i).num_splits) << "layer " << layer;
    }
  }

  StepTable table_;
  std::vector<uint8_t> device_;
};

TEST_P(StepTableTest, LaunchesStayTrueForOtherSequences) {
  for (const std::vector<int64_t>& capacities :
       {std::vector<int64_t>{300, 5000}, {20, 20}, {9000, 300}, {700, 70}}) {
    Set(capacities);
    for (int layer = 0; layer < kLayers; ++layer) {
      CheckItems(layer, 2);
      for (int i = 0; i < 2; ++i) {
        const AttentionLaunch launch = table_.Launch(layer, 2);
        const auto s = At<TableSequence>(layer, 0, i);
        EXPECT_EQ(s.num_queries, 1);
        EXPECT_EQ(s.block_tokens, layer == kLayers - 1 ? 9 : 0);
        const auto own = At<TableView>(layer, launch.views_offset, s.first_view + s.num_views - 1);
        EXPECT_EQ(own.k, g_memory + 32 * (10 * layer + i));
        EXPECT_EQ(own.num_tokens, capacities[i]);
        const auto slots = At<KvSlots>(0, table_.SlotsOffset(layer), i);
        EXPECT_EQ(slots.k, own.k);
        EXPECT_EQ(slots.v, own.v);
        EXPECT_EQ(At<int32_t>(layer, launch.counters_offset, 8 * i), 0);
      }
    }
  }
}

TEST_P(StepTableTest, SplitsDependOnTheSequenceAlone) {
  Set({5000});
  const int alone = At<TableSequence>(1, 0, 0).num_splits;
  EXPECT_GT(alone, 1);
  Set({20, 5000, 300, 300, 300, 300, 300, 300});
  CheckItems(1, kMaxSequences);
  EXPECT_EQ(At<TableSequence>(1, 0, 1).num_splits, alone);
}

// Around the number of sequences from which on a block takes fewer splits: a table that has no
// place for all items would leave steps to the slow way.
TEST_P(StepTableTest, ItemsOfManySequencesHavePlaces) {
  for (const int rows : {48, 49, 50, 64}) {
    SCOPED_TRACE(rows);
    StepTable table(Shape(), 1, 64, reinterpret_cast<const float*>(g_memory),
                    reinterpret_cast<float*>(g_memory));
    std::vector<StepInput> inputs;
    for (int i = 0; i < rows; ++i) inputs.push_back({{}, Kv(1 + 997 * i % 30000, i % 64)});
    table.Begin();
    ASSERT_TRUE(table.SetLayer(0, inputs));
    const AttentionLaunch launch = table.Launch(0, rows);
    const uint8_t* part = table.fixed_part().data();
    int splits = 0, most = 0, held = 0;
    for (int i = 0; i < rows; ++i) {
      splits += reinterpret_cast<const TableSequence*>(part)[i].num_splits;
    }
    const auto* items = reinterpret_cast<const TableItem*>(part + launch.decode_offset);
    for (int i = 0; i < launch.num_decode_items; ++i) {
      if (items[i].sequence < 0) continue;
      held += items[i].num_splits;
      most = std::max(most, items[i].num_splits);
    }
    EXPECT_EQ(held, splits);
    EXPECT_LE(launch.decode_offset + launch.num_decode_items * sizeof(TableItem),
              launch.merge_offset);
    if (GetParam() == AttentionPrecision::kFloat32) continue;
    EXPECT_EQ(launch.num_decode_items, rows < 50 ? 49 : 198);
    EXPECT_LE(most, rows < 50 ? 32 : 16);
  }
}

TEST_P(StepTableTest, PartialSumsHaveRoom) {
  Set(std::vector<int64_t>(kMaxSequences, 100000));
  const AttentionLaunch launch = table_.Launch(0, kMaxSequences);
  int64_t rows = 0;
  for (int i = 0; i < kMaxSequences; ++i) {
    const auto s = At<TableSequence>(0, 0, i);
    EXPECT_EQ(s.partial_row, rows);
    rows += int64_t{s.num_splits} * 32;
  }
  EXPECT_GE(launch.state_offset, rows * 128 * sizeof(float));
  EXPECT_GE(table_.workspace_bytes(), launch.state_offset + rows * 2 * sizeof(float));
}

INSTANTIATE_TEST_SUITE_P(Precisions, StepTableTest,
                         ::testing::Values(AttentionPrecision::kBFloat16,
                                           AttentionPrecision::kFloat32));

}  // namespace
}  // namespace msa::kernels::cuda

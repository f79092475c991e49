// The host's half of attention on a GPU: that work items cover every row and token exactly once.
#include "kernels/cuda/attention_plan.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/attention_table.h"

namespace msa::kernels::cuda {
namespace {

alignas(16) uint8_t g_memory[64];  // stands for device memory: never read

AttentionKv Kv(int64_t num_tokens, ElementType type = ElementType::kBFloat16) {
  AttentionKv kv;
  kv.k = kv.v = g_memory;
  kv.num_tokens = num_tokens;
  kv.type = type;
  return kv;
}

AttentionInput Input(int num_queries, std::span<const AttentionKv> blocks, AttentionKv local) {
  AttentionInput input;
  input.num_queries = num_queries;
  input.q = reinterpret_cast<const float*>(g_memory);
  input.out = reinterpret_cast<float*>(g_memory);
  input.blocks = blocks;
  input.local = local;
  input.first_visible = local.num_tokens - num_queries;
  return input;
}

AttentionShape Shape(AttentionPrecision precision) {
  AttentionShape shape;
  shape.num_q_heads = 32;
  shape.num_kv_heads = 8;
  shape.head_dim = 128;
  shape.precision = precision;
  return shape;
}

template <class T>
std::vector<T> Read(const AttentionPlan& plan, size_t offset, int n) {
  std::vector<T> entries(n);
  if (n > 0) std::memcpy(entries.data(), plan.table.data() + offset, n * sizeof(T));
  return entries;
}

std::vector<TableSequence> Sequences(const AttentionPlan& plan) {
  return Read<TableSequence>(plan, 0, plan.launch.num_sequences);
}

// How often each (row, token) of a sequence is visited by items of `rows_each` rows.
std::vector<std::vector<int>> Visits(const TableSequence& s, int sequence, int rows, int rows_each,
                                     int group, const std::vector<TableItem>& items) {
  std::vector<std::vector<int>> visits(rows, std::vector<int>(s.block_tokens + s.local_tokens, 0));
  for (const TableItem& item : items) {
    if (item.sequence != sequence) continue;
    const int end = std::min(item.first_row + rows_each, rows);
    const TokenRange range = RangeOf(s, item.split, LimitOf(s, (end - 1) / group), item.num_splits);
    for (int row = item.first_row; row < end; ++row) {
      for (int t = range.begin; t < std::min(range.end, LimitOf(s, row / group)); ++t) {
        ++visits[row][t];
      }
    }
  }
  return visits;
}

void ExpectEachSeenOnce(const TableSequence& s, int group,
                        const std::vector<std::vector<int>>& visits) {
  for (size_t row = 0; row < visits.size(); ++row) {
    for (size_t t = 0; t < visits[row].size(); ++t) {
      const bool seen = static_cast<int>(t) < LimitOf(s, static_cast<int>(row) / group);
      ASSERT_EQ(visits[row][t], seen ? 1 : 0) << "row " << row << " token " << t;
    }
  }
}

TEST(AttentionPlanTest, DecodeSplitsCoverEveryTokenOnce) {
  const std::vector<AttentionKv> blocks = {Kv(3), Kv(0), Kv(144)};
  for (const int64_t local : {0, 1, 255, 2048, 9001}) {
    for (const int queries : {1, 4}) {
      const AttentionInput input = Input(queries, blocks, Kv(local));
      const AttentionPlan plan = PlanAttention(
          Shape(queries == 1 ? AttentionPrecision::kBFloat16 : AttentionPrecision::kFloat32),
          {&input, 1});
      ASSERT_EQ(plan.launch.num_prefill_items, 0);
      const TableSequence s = Sequences(plan)[0];
      EXPECT_EQ(s.num_views, 3);  // without the empty one
      const auto items =
          Read<TableItem>(plan, plan.launch.decode_offset, plan.launch.num_decode_items);
      EXPECT_EQ(static_cast<int>(items.size()), s.num_splits);
      ExpectEachSeenOnce(s, 4, Visits(s, 0, queries * 4, kDecodeRows, 4, items));
    }
  }
}

TEST(AttentionPlanTest, SplitsStillCoverAContextThatHasGrown) {
  const AttentionInput input = Input(1, {}, Kv(100));
  AttentionOptions options;
  options.local_capacity = 5000;
  const AttentionPlan plan =
      PlanAttention(Shape(AttentionPrecision::kBFloat16), {&input, 1}, options);
  const auto items = Read<TableItem>(plan, plan.launch.decode_offset, plan.launch.num_decode_items);
  TableSequence s = Sequences(plan)[0];
  EXPECT_GT(s.num_splits, 8);
  for (const int grown : {0, 1, 63, 64, 4900}) {
    TableSequence later = s;
    later.local_tokens += grown;
    later.first_visible += grown;
    ExpectEachSeenOnce(later, 4, Visits(later, 0, 4, kDecodeRows, 4, items));
  }
}

TEST(AttentionPlanTest, PrefillItemsCoverEveryRowAndToken) {
  const std::vector<AttentionKv> blocks = {Kv(77)};
  for (const AttentionPrecision precision :
       {AttentionPrecision::kFloat32, AttentionPrecision::kBFloat16}) {
    const int rows_each =
        precision == AttentionPrecision::kFloat32 ? kPrefillRowsFloat32 : kPrefillRowsTensor;
    for (const bool causal : {true, false}) {
      // One that is split over tokens, one that is not.
      AttentionInput inputs[] = {Input(30, blocks, Kv(3000)), Input(150, {}, Kv(150))};
      inputs[0].causal = inputs[1].causal = causal;
      const AttentionPlan plan = PlanAttention(Shape(precision), inputs);
      const std::vector<TableSequence> sequences = Sequences(plan);
      EXPECT_GT(sequences[0].num_splits, 1);
      EXPECT_EQ(sequences[1].num_splits, 1);
      const auto items =
          Read<TableItem>(plan, plan.launch.prefill_offset, plan.launch.num_prefill_items);
      for (int i = 0; i < 2; ++i) {
        const int rows = sequences[i].num_queries * 4;
        ExpectEachSeenOnce(sequences[i], 4, Visits(sequences[i], i, rows, rows_each, 4, items));
      }
    }
  }
}

TEST(AttentionPlanTest, SplitsDoNotDependOnTheBatch) {
  const AttentionInput one = Input(1, {}, Kv(3000));
  const std::vector<AttentionInput> many(40, one);
  const AttentionShape shape = Shape(AttentionPrecision::kBFloat16);
  EXPECT_EQ(Sequences(PlanAttention(shape, {&one, 1}))[0].num_splits,
            Sequences(PlanAttention(shape, many))[39].num_splits);
}

TEST(AttentionPlanTest, BlocksOfALargeBatchTakeSeveralSplits) {
  const std::vector<AttentionInput> inputs(70, Input(1, {}, Kv(3001)));
  const AttentionPlan plan = PlanAttention(Shape(AttentionPrecision::kBFloat16), inputs);
  const auto items = Read<TableItem>(plan, plan.launch.decode_offset, plan.launch.num_decode_items);
  EXPECT_LT(items.size(), 200u);
  const std::vector<TableSequence> sequences = Sequences(plan);
  for (int i = 0; i < 70; i += 23) {
    ExpectEachSeenOnce(sequences[i], 4, Visits(sequences[i], i, 4, kDecodeRows, 4, items));
    int num_items = 0;
    for (const TableItem& item : items) num_items += item.sequence == i ? 1 : 0;
    for (const TableItem& item : items) {
      EXPECT_TRUE(item.sequence != i || item.num_items == num_items);
    }
  }
}

TEST(AttentionPlanTest, PartialSumsOfSequencesDoNotOverlap) {
  const std::vector<AttentionInput> inputs = {Input(1, {}, Kv(3000)), Input(1, {}, Kv(10)),
                                              Input(30, {}, Kv(9000)), Input(2, {}, Kv(700))};
  const AttentionPlan plan = PlanAttention(Shape(AttentionPrecision::kBFloat16), inputs);
  int64_t next = 0;
  for (const TableSequence& s : Sequences(plan)) {
    if (s.num_splits == 1) continue;
    EXPECT_EQ(s.partial_row, next);
    next += int64_t{s.num_splits} * s.num_queries * 32;
  }
  EXPECT_GE(plan.launch.state_offset, next * 128 * sizeof(float));
  EXPECT_GE(plan.launch.workspace_bytes, plan.launch.state_offset + next * 2 * sizeof(float));
}

TEST(AttentionPlanTest, PacksWhatPrefillCannotReadInPlace) {
  const std::vector<AttentionKv> blocks = {Kv(3, ElementType::kFloat32),
                                           Kv(20, ElementType::kInt8)};
  const AttentionInput inputs[] = {Input(40, blocks, Kv(40)),
                                   Input(40, blocks, Kv(50, ElementType::kFloat32)),
                                   Input(40, {}, Kv(40))};
  const AttentionPlan plan = PlanAttention(Shape(AttentionPrecision::kBFloat16), inputs);
  const std::vector<TableSequence> sequences = Sequences(plan);
  EXPECT_EQ(sequences[0].packed_tokens, 23);
  EXPECT_EQ(sequences[1].packed_row, 23);
  EXPECT_EQ(sequences[1].packed_tokens, 73);
  EXPECT_EQ(sequences[2].packed_tokens, 0);
  EXPECT_EQ(plan.launch.num_pack_items, 2 + 5);
}

TEST(AttentionPlanTest, ViewsKnowWhereTheirTypeEnds) {
  const auto f32 = ElementType::kFloat32, bf16 = ElementType::kBFloat16, int8 = ElementType::kInt8;
  const std::vector<AttentionKv> blocks = {Kv(3, f32), Kv(9, int8), Kv(9, int8), Kv(5, bf16)};
  const AttentionInput input = Input(1, blocks, Kv(70, bf16));
  const AttentionPlan plan = PlanAttention(Shape(AttentionPrecision::kBFloat16), {&input, 1});
  std::vector<int> ends;
  for (const TableView& view : Read<TableView>(plan, plan.launch.views_offset, 5)) {
    ends.push_back(view.type_end);
  }
  EXPECT_EQ(ends, (std::vector<int>{3, 21, 21, INT32_MAX, INT32_MAX}));
  EXPECT_EQ(plan.launch.decode_element_bytes, 2);
}

TEST(AttentionPlanTest, DecodeHasRoomForItsWidestElementsOnly) {
  const auto f32 = ElementType::kFloat32, int8 = ElementType::kInt8;
  const auto room = [](std::vector<AttentionKv> blocks, AttentionKv local) {
    const AttentionInput input = Input(1, blocks, local);
    return PlanAttention(Shape(AttentionPrecision::kBFloat16), {&input, 1})
        .launch.decode_element_bytes;
  };
  EXPECT_EQ(room({Kv(9, int8)}, Kv(70, int8)), 2);
  EXPECT_EQ(room({Kv(9, int8)}, Kv(70)), 2);
  EXPECT_EQ(room({Kv(3, f32), Kv(9, int8)}, Kv(70, int8)), 2);  // a template's few
  EXPECT_EQ(room({Kv(3, f32)}, Kv(7)), 4);
  EXPECT_EQ(room({}, Kv(70, f32)), 4);
}

TEST(AttentionPlanTest, FallsBackToFloat32WhereTensorCoresDoNotServe) {
  AttentionShape shape = Shape(AttentionPrecision::kBFloat16);
  AttentionInput input = Input(1, {}, Kv(10));
  EXPECT_TRUE(PlanAttention(shape, {&input, 1}).launch.tensor_cores);
  input.local.k = g_memory + 2;
  EXPECT_FALSE(PlanAttention(shape, {&input, 1}).launch.tensor_cores);
  input.local.k = g_memory;
  shape.head_dim = 80;
  EXPECT_FALSE(PlanAttention(shape, {&input, 1}).launch.tensor_cores);
  EXPECT_FALSE(PlanAttention(Shape(AttentionPrecision::kFloat32), {&input, 1}).launch.tensor_cores);
}

TEST(AttentionPlanTest, NothingToDoIsAnEmptyPlan) {
  const AttentionInput input = Input(0, {}, Kv(10));
  EXPECT_EQ(PlanAttention(Shape(AttentionPrecision::kBFloat16), {&input, 1}).launch.num_sequences,
            0);
  EXPECT_EQ(PlanAttention(Shape(AttentionPrecision::kBFloat16), {}).launch.num_sequences, 0);
}

}  // namespace
}  // namespace msa::kernels::cuda

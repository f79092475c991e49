#include "kernels/cuda/step_table.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/attention_table.h"

namespace msa::kernels::cuda {
namespace {

constexpr size_t kAlign = 256;

size_t Align(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Entries `first` … of a plan's table.
template <class T>
std::span<const T> Entries(const AttentionPlan& plan, size_t offset, int count) {
  return {reinterpret_cast<const T*>(plan.table.data() + offset), static_cast<size_t>(count)};
}

}  // namespace

StepTable::StepTable(const AttentionShape& shape, int num_layers, int max_sequences, const float* q,
                     float* out)
    : shape_(shape),
      max_sequences_(max_sequences),
      q_(q),
      out_(out),
      tensor_cores_(shape.precision == AttentionPrecision::kBFloat16 &&
                    (shape.head_dim == 64 || shape.head_dim == 128)) {
  items_offset_ = Align(max_sequences * sizeof(TableSequence));
  merge_offset_ = items_offset_ + Align(MostItems(max_sequences) * sizeof(TableItem));
  slots_offset_ = merge_offset_ + Align(max_sequences * sizeof(TableMergeItem));
  layer_bytes_ = slots_offset_ + Align(max_sequences * sizeof(KvSlots));
  counters_offset_ = layer_bytes_ * num_layers;
  fixed_.resize(counters_offset_ + Align(max_sequences * shape.num_kv_heads * sizeof(int32_t)));
}

int StepTable::MostItems(int rows) const {
  if (!tensor_cores_) return rows * static_cast<int>(kMostDecodeSplits);
  return std::max(
      rows, static_cast<int>(MostDecodeBlocks(rows, shape_.num_kv_heads)) / shape_.num_kv_heads);
}

size_t StepTable::StateOffset() const {
  return Align(max_sequences_ * shape_.num_q_heads * kMostDecodeSplits * shape_.head_dim *
               sizeof(float));
}

size_t StepTable::workspace_bytes() const {
  return StateOffset() +
         max_sequences_ * shape_.num_q_heads * kMostDecodeSplits * 2 * sizeof(float);
}

void StepTable::Begin() {
  views_.clear();
  // Items of no sequence: blocks that find one end.
  std::fill(fixed_.begin(), fixed_.begin() + counters_offset_, 0xff);
}

bool StepTable::SetLayer(int layer, std::span<const StepInput> inputs) {
  const int64_t width = int64_t{shape_.num_q_heads} * shape_.head_dim;
  std::vector<AttentionInput> batch(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    batch[i].q = q_ + i * width;
    batch[i].out = out_ + i * width;
    batch[i].num_queries = 1;
    batch[i].blocks = inputs[i].blocks;
    // Splits are made for the room there is, so that they stay what they are as it fills.
    batch[i].local = inputs[i].local;
    batch[i].first_visible = inputs[i].local.num_tokens - 1;
  }
  const AttentionPlan plan = PlanAttention(shape_, batch);
  const AttentionLaunch& launch = plan.launch;
  if (launch.tensor_cores != tensor_cores_ || launch.num_prefill_items > 0) return false;
  if (launch.num_decode_items > MostItems(static_cast<int>(inputs.size()))) return false;

  uint8_t* to = fixed_.data() + LayerOffset(layer);
  const auto first_view = static_cast<int32_t>(views_.size() / sizeof(TableView));
  auto* sequences = reinterpret_cast<TableSequence*>(to);
  int32_t num_views = 0;
  for (const TableSequence& s : Entries<TableSequence>(plan, 0, launch.num_sequences)) {
    num_views += s.num_views;
    *sequences = s;
    sequences->first_view += first_view;
    ++sequences;
  }
  auto* items = reinterpret_cast<TableItem*>(to + items_offset_);
  for (TableItem item : Entries<TableItem>(plan, launch.decode_offset, launch.num_decode_items)) {
    item.first_view += first_view;
    *items++ = item;
  }
  const auto merges = Entries<TableMergeItem>(plan, launch.merge_offset, launch.num_merge_items);
  std::copy(merges.begin(), merges.end(), reinterpret_cast<TableMergeItem*>(to + merge_offset_));
  auto* slots = reinterpret_cast<KvSlots*>(to + slots_offset_);
  for (const StepInput& input : inputs) {
    *slots++ = {const_cast<void*>(input.local.k), const_cast<void*>(input.local.v)};
  }
  const auto views =
      Entries<uint8_t>(plan, launch.views_offset, num_views * static_cast<int>(sizeof(TableView)));
  views_.insert(views_.end(), views.begin(), views.end());
  return true;
}

AttentionLaunch StepTable::Launch(int layer, int rows) const {
  AttentionLaunch launch;
  launch.shape = shape_;
  launch.tensor_cores = tensor_cores_;
  launch.decode_element_bytes = 2;
  launch.num_sequences = rows;
  launch.num_decode_items = MostItems(rows);
  launch.num_merge_items = tensor_cores_ ? 0 : rows;
  launch.views_offset = views_offset() - LayerOffset(layer);
  launch.decode_offset = items_offset_;
  launch.merge_offset = merge_offset_;
  launch.counters_offset = counters_offset_ - LayerOffset(layer);
  launch.state_offset = StateOffset();
  launch.packed_k_offset = launch.packed_v_offset = workspace_bytes();
  launch.workspace_bytes = workspace_bytes();
  return launch;
}

}  // namespace msa::kernels::cuda

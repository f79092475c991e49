// The table that decode steps attend by: a plan (attention_plan.h) of every layer, laid out so that
// launches made once stay true for other sequences and lengths. Pure C++, no device is touched.
#ifndef MSA_KERNELS_CUDA_STEP_TABLE_H_
#define MSA_KERNELS_CUDA_STEP_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/kv_slots.h"

namespace msa::kernels::cuda {

// A sequence of the steps in one layer: q and out as AttentionInput, `local` with room for as many
// rows as num_tokens says, one of which is written in a step.
struct StepInput {
  std::span<const AttentionKv> blocks;
  AttentionKv local;
};

// Not thread-safe.
class StepTable {
 public:
  // q, out: device [max_sequences, num_q_heads, head_dim].
  StepTable(const AttentionShape& shape, int num_layers, int max_sequences, const float* q,
            float* out);

  // Begins a set of sequences; then SetLayer for each layer in order.
  void Begin();
  // One input a sequence. False when the decode kernels do not take them: give up the set.
  bool SetLayer(int layer, std::span<const StepInput> inputs);

  // What goes to the device: the first part always, views as many as there are. 16-byte aligned
  // there; lengths are written by StartStep before the first launch.
  std::span<const uint8_t> fixed_part() const { return fixed_; }
  std::span<const uint8_t> views() const { return views_; }
  // Where views begin in the device's copy.
  size_t views_offset() const { return fixed_.size(); }
  size_t workspace_bytes() const;

  // Of `rows` sequences; its table is the device's copy from LayerOffset(layer) on.
  AttentionLaunch Launch(int layer, int rows) const;
  size_t LayerOffset(int layer) const { return layer * layer_bytes_; }
  size_t SlotsOffset(int layer) const { return LayerOffset(layer) + slots_offset_; }  // KvSlots
  size_t layer_bytes() const { return layer_bytes_; }

 private:
  int MostItems(int rows) const;
  size_t StateOffset() const;

  const AttentionShape shape_;
  const int max_sequences_;
  const float* const q_;
  float* const out_;
  bool tensor_cores_;
  size_t items_offset_ = 0;
  size_t merge_offset_ = 0;
  size_t slots_offset_ = 0;
  size_t layer_bytes_ = 0;
  size_t counters_offset_ = 0;  // of the whole: layers take turns
  std::vector<uint8_t> fixed_;
  std::vector<uint8_t> views_;
};

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_STEP_TABLE_H_

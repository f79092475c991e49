#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/attention_table.h"

namespace msa::kernels::cuda {
namespace {

// A prefill of fewer blocks than this is split over tokens: two for each multiprocessor of a
// Hopper chip. Not the present chip's count, so that results do not depend on it.
constexpr int64_t kWantedBlocks = 264;
constexpr int64_t kLeastPrefillSplit = 512;
constexpr int64_t kLeastDecodeSplit = 256;
constexpr int64_t kMostDecodeSplits = 32;
constexpr int64_t kFarthest = int64_t{1} << 30;
constexpr size_t kWorkspaceAlign = 256;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

size_t Align(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

bool Aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

bool ServedByTensorCores(const AttentionShape& shape, std::span<const AttentionInput> inputs) {
  if (shape.precision != AttentionPrecision::kBFloat16) return false;
  if (shape.head_dim != 64 && shape.head_dim != 128) return false;
  for (const AttentionInput& input : inputs) {
    if (!Aligned16(input.q) || !Aligned16(input.out)) return false;
    if (!Aligned16(input.local.k) || !Aligned16(input.local.v)) return false;
    for (const AttentionKv& kv : input.blocks) {
      if (!Aligned16(kv.k) || !Aligned16(kv.v)) return false;
    }
  }
  return true;
}

class Planner {
 public:
  Planner(const AttentionShape& shape, std::span<const AttentionInput> inputs,
          const AttentionOptions& options)
      : shape_(shape), options_(options) {
    launch_.shape = shape;
    launch_.tensor_cores = ServedByTensorCores(shape, inputs);
    launch_.hopper = options.hopper;
    launch_.decode_element_bytes = 1;
    for (const AttentionInput& input : inputs) AddSequence(input);
    // The longest first, so that the last blocks to run are short.
    std::stable_sort(prefill_.begin(), prefill_.end(),
                     [](const Weighted& a, const Weighted& b) { return a.tokens > b.tokens; });
  }

  AttentionPlan Finish() {
    AttentionPlan plan;
    launch_.num_sequences = static_cast<int>(sequences_.size());
    launch_.num_decode_items = static_cast<int>(decode_.size());
    launch_.num_prefill_items = static_cast<int>(prefill_.size());
    launch_.num_pack_items = static_cast<int>(pack_.size());
    launch_.num_merge_items = static_cast<int>(merge_.size());
    std::vector<TableItem> prefill;
    for (const Weighted& w : prefill_) prefill.push_back(w.item);
    Append(plan.table, sequences_);
    launch_.views_offset = Append(plan.table, views_);
    launch_.decode_offset = Append(plan.table, decode_);
    launch_.prefill_offset = Append(plan.table, prefill);
    launch_.pack_offset = Append(plan.table, pack_);
    launch_.merge_offset = Append(plan.table, merge_);
    launch_.table_bytes = plan.table.size();
    LayOutWorkspace();
    plan.launch = launch_;
    return plan;
  }

 private:
  struct Weighted {
    TableItem item;
    int64_t tokens;
  };

  template <class T>
  static size_t Append(std::vector<uint8_t>& table, const std::vector<T>& entries) {
    const size_t at = Align(table.size(), 16);
    table.resize(at + entries.size() * sizeof(T));
    if (!entries.empty()) std::memcpy(table.data() + at, entries.data(), table.size() - at);
    return at;
  }

  void AddView(const AttentionKv& kv, int64_t first_token) {
    views_.push_back({kv.k, kv.v, kv.k_scales, kv.v_scales, static_cast<int32_t>(first_token),
                      static_cast<int32_t>(kv.num_tokens), kv.type});
  }

  void AddSequence(const AttentionInput& input) {
    if (input.num_queries == 0) return;
    TableSequence s = {};
    s.q = input.q;
    s.out = input.out;
    s.num_queries = input.num_queries;
    s.first_view = static_cast<int32_t>(views_.size());
    int64_t tokens = 0;
    for (const AttentionKv& kv : input.blocks) {
      if (kv.num_tokens == 0) continue;
      AddView(kv, tokens);
      tokens += kv.num_tokens;
    }
    AddView(input.local, tokens);
    s.num_views = static_cast<int32_t>(views_.size()) - s.first_view;
    s.block_tokens = static_cast<int32_t>(tokens);
    s.local_tokens = static_cast<int32_t>(input.local.num_tokens);
    s.first_visible = static_cast<int32_t>(std::clamp(input.first_visible, -kFarthest, kFarthest));
    s.causal = input.causal ? 1 : 0;
    if (input.num_queries * shape_.group() <= kDecodeRows) {
      AddDecode(s, input);
    } else {
      AddPrefill(s, input);
    }
    sequences_.push_back(s);
  }

  void AddDecode(TableSequence& s, const AttentionInput& input) {
    for (int i = 0; i < s.num_views; ++i) {
      launch_.decode_element_bytes =
          std::max(launch_.decode_element_bytes,
                   static_cast<int>(ElementBytes(views_[s.first_view + i].type)));
    }
    const int64_t tokens =
        s.block_tokens + std::max(input.local.num_tokens, options_.local_capacity);
    int64_t split = options_.decode_split_tokens;
    if (split <= 0) split = std::max(kLeastDecodeSplit, CeilDiv(tokens, kMostDecodeSplits));
    SetSplits(s, CeilDiv(tokens, split));
    for (int i = 0; i < s.num_splits; ++i) decode_.push_back({SequenceIndex(), 0, i});
  }

  void AddPrefill(TableSequence& s, const AttentionInput& input) {
    const int item_rows = launch_.tensor_cores ? kPrefillRowsTensor : kPrefillRowsFloat32;
    const int64_t rows = static_cast<int64_t>(s.num_queries) * shape_.group();
    const int64_t blocks = CeilDiv(rows, item_rows) * shape_.num_kv_heads;
    const int64_t tokens = s.block_tokens + s.local_tokens;
    SetSplits(s, std::min(kWantedBlocks / blocks, tokens / kLeastPrefillSplit));
    for (int64_t row = 0; row < rows; row += item_rows) {
      const int64_t last_query = std::min(row + item_rows, rows) / shape_.group();
      const int64_t visible =
          s.causal ? std::min<int64_t>(s.local_tokens, s.first_visible + last_query + 1)
                   : s.local_tokens;
      for (int i = 0; i < s.num_splits; ++i) {
        prefill_.push_back({{SequenceIndex(), static_cast<int32_t>(row), i},
                            (s.block_tokens + visible) / s.num_splits});
      }
    }
    if (launch_.tensor_cores) AddPacking(s, input);
  }

  // Blocks always, local rows unless they are bfloat16 already.
  void AddPacking(TableSequence& s, const AttentionInput& input) {
    s.packed_tokens = s.block_tokens;
    if (input.local.type != ElementType::kBFloat16) s.packed_tokens += s.local_tokens;
    s.packed_row = packed_rows_;
    packed_rows_ += s.packed_tokens;
    for (int t = 0; t < s.packed_tokens; t += kPackTokens) pack_.push_back({SequenceIndex(), t});
  }

  void SetSplits(TableSequence& s, int64_t splits) {
    s.num_splits = static_cast<int32_t>(std::max<int64_t>(splits, 1));
    if (s.num_splits == 1) return;
    const int64_t rows = static_cast<int64_t>(s.num_queries) * shape_.group();
    s.partial_row = partial_rows_;
    partial_rows_ += rows * shape_.num_kv_heads * s.num_splits;
    for (int64_t row = 0; row < rows; row += kMergeRows) {
      merge_.push_back({SequenceIndex(), static_cast<int32_t>(row)});
    }
  }

  // Of the sequence being added.
  int32_t SequenceIndex() const { return static_cast<int32_t>(sequences_.size()); }

  void LayOutWorkspace() {
    size_t bytes = partial_rows_ * shape_.head_dim * sizeof(float);
    launch_.state_offset = Align(bytes, kWorkspaceAlign);
    bytes = launch_.state_offset + partial_rows_ * 2 * sizeof(float);
    const size_t packed = packed_rows_ * shape_.num_kv_heads * shape_.head_dim * sizeof(uint16_t);
    launch_.packed_k_offset = Align(bytes, kWorkspaceAlign);
    launch_.packed_v_offset = Align(launch_.packed_k_offset + packed, kWorkspaceAlign);
    launch_.workspace_bytes = launch_.packed_v_offset + packed;
  }

  AttentionShape shape_;
  AttentionOptions options_;
  AttentionLaunch launch_;
  std::vector<TableSequence> sequences_;
  std::vector<TableView> views_;
  std::vector<TableItem> decode_;
  std::vector<Weighted> prefill_;
  std::vector<TablePackItem> pack_;
  std::vector<TableMergeItem> merge_;
  int64_t partial_rows_ = 0;
  int64_t packed_rows_ = 0;
};

}  // namespace

AttentionPlan PlanAttention(const AttentionShape& shape, std::span<const AttentionInput> inputs,
                            const AttentionOptions& options) {
  return Planner(shape, inputs, options).Finish();
}

}  // namespace msa::kernels::cuda

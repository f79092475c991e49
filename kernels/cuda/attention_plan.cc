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
// Of a short context, whose few splits would leave most of the chip idle.
constexpr int64_t kShortContext = 1024;
constexpr int64_t kLeastShortSplit = 128;
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
    launch_.decode_element_bytes = 2;
    for (const AttentionInput& input : inputs) AddSequence(input);
    // The longest first, so that the last blocks to run are short.
    std::stable_sort(prefill_.begin(), prefill_.end(),
                     [](const Weighted& a, const Weighted& b) { return a.tokens > b.tokens; });
  }

  AttentionPlan Finish() {
    AttentionPlan plan;
    launch_.num_sequences = static_cast<int>(sequences_.size());
    const std::vector<TableItem> decode = DecodeItems();
    launch_.num_decode_items = static_cast<int>(decode.size());
    launch_.num_prefill_items = static_cast<int>(prefill_.size());
    launch_.num_pack_items = static_cast<int>(pack_.size());
    launch_.num_merge_items = static_cast<int>(merge_.size());
    std::vector<TableItem> prefill;
    for (const Weighted& w : prefill_) prefill.push_back(w.item);
    Append(plan.table, sequences_);
    launch_.views_offset = Append(plan.table, views_);
    launch_.decode_offset = Append(plan.table, decode);
    launch_.prefill_offset = Append(plan.table, prefill);
    launch_.pack_offset = Append(plan.table, pack_);
    launch_.merge_offset = Append(plan.table, merge_);
    launch_.counters_offset =
        Append(plan.table, std::vector<int32_t>(sequences_.size() * shape_.num_kv_heads, 0));
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
                      static_cast<int32_t>(kv.num_tokens), INT32_MAX, kv.type});
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
    for (size_t i = views_.size() - 1; i > static_cast<size_t>(s.first_view); --i) {
      const TableView& later = views_[i];
      views_[i - 1].type_end =
          later.type == views_[i - 1].type ? later.type_end : later.first_token;
    }
    if (IsDecode(input)) {
      AddDecode(s, input);
    } else {
      AddPrefill(s, input);
    }
    sequences_.push_back(s);
  }

  // The tensor cores' decode kernel takes one query; a few more go through prefill.
  bool IsDecode(const AttentionInput& input) const {
    return (launch_.tensor_cores ? input.num_queries == 1 : true) &&
           input.num_queries * shape_.group() <= kDecodeRows;
  }

  // Room for an element in the decode kernel: 4 for float32, else 2. A template's few float32 rows
  // do not make the kernel hold every row as if it were that wide.
  static int ElementRoom(const AttentionInput& input) {
    if (input.local.type == ElementType::kFloat32) return 4;
    int64_t tokens = input.local.num_tokens;
    int64_t wide = 0;
    for (const AttentionKv& kv : input.blocks) {
      tokens += kv.num_tokens;
      if (kv.type == ElementType::kFloat32) wide += kv.num_tokens;
    }
    return 8 * wide > tokens ? 4 : 2;
  }

  void AddDecode(TableSequence& s, const AttentionInput& input) {
    launch_.decode_element_bytes = std::max(launch_.decode_element_bytes, ElementRoom(input));
    const int64_t tokens =
        s.block_tokens + std::max(input.local.num_tokens, options_.local_capacity);
    int64_t split = options_.decode_split_tokens;
    const int64_t least = tokens <= kShortContext ? kLeastShortSplit : kLeastDecodeSplit;
    if (split <= 0) split = std::max(least, CeilDiv(tokens, kMostDecodeSplits));
    SetSplits(s, CeilDiv(tokens, split), launch_.tensor_cores);
    decode_.push_back(SequenceIndex());
  }

  void AddPrefill(TableSequence& s, const AttentionInput& input) {
    const int item_rows = launch_.tensor_cores ? kPrefillRowsTensor : kPrefillRowsFloat32;
    const int64_t rows = static_cast<int64_t>(s.num_queries) * shape_.group();
    const int64_t blocks = CeilDiv(rows, item_rows) * shape_.num_kv_heads;
    const int64_t tokens = s.block_tokens + s.local_tokens;
    SetSplits(s, std::min(kWantedBlocks / blocks, tokens / kLeastPrefillSplit), false);
    for (int64_t row = 0; row < rows; row += item_rows) {
      const int64_t last_query = std::min(row + item_rows, rows) / shape_.group();
      const int64_t visible =
          s.causal ? std::min<int64_t>(s.local_tokens, s.first_visible + last_query + 1)
                   : s.local_tokens;
      for (int i = 0; i < s.num_splits; ++i) {
        const TableItem item = {SequenceIndex(), static_cast<int32_t>(row), i, 1, 0, s.first_view,
                                s.num_views};
        prefill_.push_back({item, (s.block_tokens + visible) / s.num_splits});
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

  void SetSplits(TableSequence& s, int64_t splits, bool merged_in_place) {
    s.num_splits = static_cast<int32_t>(std::max<int64_t>(splits, 1));
    if (s.num_splits == 1) return;
    const int64_t rows = static_cast<int64_t>(s.num_queries) * shape_.group();
    s.partial_row = partial_rows_;
    partial_rows_ += rows * shape_.num_kv_heads * s.num_splits;
    if (merged_in_place) return;
    for (int64_t row = 0; row < rows; row += kMergeRows) {
      merge_.push_back({SequenceIndex(), static_cast<int32_t>(row)});
    }
  }

  // A block may take several splits of a sequence one after the other: how many depends on the
  // batch, the splits and with them the sums do not.
  std::vector<TableItem> DecodeItems() const {
    const int32_t each = SplitsOfABlock();
    std::vector<TableItem> items;
    for (int32_t i : decode_) {
      const TableSequence& s = sequences_[i];
      const auto num_items = static_cast<int32_t>(CeilDiv(s.num_splits, each));
      const auto evenly = static_cast<int32_t>(CeilDiv(s.num_splits, num_items));
      const auto used = static_cast<int32_t>(CeilDiv(s.num_splits, evenly));
      for (int32_t split = 0; split < s.num_splits; split += evenly) {
        const int32_t here = std::min(evenly, s.num_splits - split);
        items.push_back({i, 0, split, here, used, s.first_view, s.num_views});
      }
    }
    return items;
  }

  int32_t SplitsOfABlock() const {
    if (!launch_.tensor_cores) return 1;
    const auto limit = MostDecodeBlocks(static_cast<int64_t>(decode_.size()), shape_.num_kv_heads);
    int32_t most = 1;
    for (int32_t i : decode_) most = std::max(most, sequences_[i].num_splits);
    for (int32_t each = 1; each < most; ++each) {
      int64_t blocks = 0;
      for (int32_t i : decode_) {
        blocks += CeilDiv(sequences_[i].num_splits, each) * shape_.num_kv_heads;
      }
      if (blocks <= limit) return each;
    }
    return most;
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
  std::vector<int32_t> decode_;  // sequences
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

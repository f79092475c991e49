// Steps by the operations of the backend, for those that start them one by one.
#include "kernels/decode_steps.h"

#include <memory>
#include <utility>

namespace msa::kernels {
namespace {

class PlainSteps : public DecodeSteps {
 public:
  PlainSteps(const Backend& backend, const DecodeShape& shape, Buffer room, int max_sequences)
      : backend_(backend),
        shape_(shape),
        room_(std::move(room)),
        q_(room_.as<float>()),
        out_(q_ + max_sequences * q_width()),
        k_(out_ + max_sequences * q_width()),
        v_(k_ + max_sequences * kv_width()) {}

  absl::Status SetSequences(absl::Span<const DecodeSequence> sequences) override {
    layers_.clear();
    for (const DecodeSequence& sequence : sequences) {
      layers_.emplace_back(sequence.layers.begin(), sequence.layers.end());
    }
    return absl::OkStatus();
  }
  int64_t layout() const override { return 0; }
  void SetInputs(absl::Span<const DecodeInput> inputs) override {
    inputs_.assign(inputs.begin(), inputs.end());
  }

  void Start(int64_t rows) override {
    ids_.clear();
    positions_.clear();
    for (int64_t i = 0; i < rows; ++i) {
      ids_.push_back(inputs_[i].id);
      positions_.push_back(inputs_[i].position);
    }
  }
  const int32_t* ids() const override { return ids_.data(); }
  const int32_t* positions() const override { return positions_.data(); }

  const float* Attend(int layer, const SplitQkvArgs& qkv) override {
    SplitQkvArgs args = qkv;
    args.q = q_;
    args.k = k_;
    args.v = v_;
    backend_.SplitQkv(args);
    const DType dtype = backend_.KvDType(shape_.head_dim);
    const int64_t row_bytes = kv_width() * static_cast<int64_t>(DTypeBytes(dtype));
    std::vector<AppendArgs> appends;
    std::vector<AttentionArgs> sequences(args.rows);
    for (int64_t row = 0; row < args.rows; ++row) {
      const DecodeLayer& own = layers_[row][layer];
      const int64_t before = inputs_[row].num_tokens;
      appends.push_back({static_cast<char*>(own.k) + before * row_bytes,
                         static_cast<char*>(own.v) + before * row_bytes, row, 1, dtype});
      AttentionArgs& sequence = sequences[row];
      sequence.q = q_ + row * q_width();
      sequence.out = out_ + row * q_width();
      sequence.num_queries = 1;
      sequence.num_q_heads = shape_.num_q_heads;
      sequence.num_kv_heads = shape_.num_kv_heads;
      sequence.head_dim = shape_.head_dim;
      sequence.scale = shape_.scale;
      sequence.blocks = own.blocks;
      sequence.local.k = own.k;
      sequence.local.v = own.v;
      sequence.local.dtype = dtype;
      sequence.local.num_tokens = before + 1;
      sequence.first_visible = before;
    }
    backend_.AppendRows(k_, v_, kv_width(), appends);
    backend_.Attend(sequences);
    return out_;
  }

  void Choose(const float* logits, int64_t rows, int64_t vocab) override {
    tokens_.resize(rows);
    backend_.ArgMax(logits, rows, vocab, tokens_.data());
  }
  absl::Span<const int32_t> Tokens(int64_t rows) override {
    return absl::MakeConstSpan(tokens_).subspan(0, rows);
  }

 private:
  int64_t q_width() const { return int64_t{shape_.num_q_heads} * shape_.head_dim; }
  int64_t kv_width() const { return int64_t{shape_.num_kv_heads} * shape_.head_dim; }

  const Backend& backend_;
  const DecodeShape shape_;
  Buffer room_;
  float *q_, *out_, *k_, *v_;                     // [max_sequences, their width]
  std::vector<std::vector<DecodeLayer>> layers_;  // a sequence each; blocks are borrowed
  std::vector<DecodeInput> inputs_;
  std::vector<int32_t> ids_, positions_, tokens_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DecodeSteps>> Backend::MakeDecodeSteps(const DecodeShape& shape,
                                                                      int max_sequences) const {
  const int64_t width = int64_t{2} * (shape.num_q_heads + shape.num_kv_heads) * shape.head_dim;
  auto room = Allocate(max_sequences * width * sizeof(float));
  if (!room.ok()) return room.status();
  return std::make_unique<PlainSteps>(*this, shape, *std::move(room), max_sequences);
}

}  // namespace msa::kernels

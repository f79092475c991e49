#include "kernels/cuda/cuda_steps.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/status_macros.h"
#include "common/strings.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_table.h"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/step_start.h"
#include "kernels/cuda/step_table.h"

namespace msa::kernels::cuda {
namespace {

// Views a layer of a sequence has room for before the table is made anew: a prefix, 16 documents
// and its own rows, and some.
constexpr size_t kRoomForViews = 24;

// Memory of the processor that the device copies from, and writes to, by itself.
class Pinned {
 public:
  // The device is borrowed: what a failed one may still write to is not given back.
  static absl::StatusOr<Pinned> Make(const Device& device, size_t bytes) {
    void* data = nullptr;
    if (cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocMapped);
        error != cudaSuccess) {
      cudaGetLastError();
      return absl::ResourceExhaustedError(
          StrCat("no pinned memory for ", bytes, " bytes: ", cudaGetErrorString(error)));
    }
    return Pinned(device, data);
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* data) const {
      if (!device->failed()) cudaFreeHost(data);
    }
    const Device* device;
  };
  Pinned(const Device& device, void* data) : data_(data, Free{&device}) {}
  std::unique_ptr<void, Free> data_;
};

AttentionKv KvOf(const KvView& view) {
  AttentionKv kv;
  kv.k = view.k;
  kv.v = view.v;
  kv.num_tokens = view.num_tokens;
  kv.type = static_cast<ElementType>(view.dtype);
  if (!HasScales(view.dtype)) return kv;
  kv.k_scales = view.k_scales;
  kv.v_scales = view.v_scales;
  return kv;
}

class CudaSteps : public DecodeSteps {
 public:
  CudaSteps(Device& device, const DecodeShape& shape, const AttentionShape& attention,
            ElementType kv_type, int max_sequences, Buffer memory, float* out)
      : device_(device),
        shape_(shape),
        kv_type_(kv_type),
        max_sequences_(max_sequences),
        memory_(std::move(memory)),
        q_(memory_.as<float>()),
        out_(out),
        numbers_(reinterpret_cast<int32_t*>(out + int64_t{max_sequences} * shape.num_q_heads *
                                                      shape.head_dim)),
        table_(attention, shape.num_layers, max_sequences, q_, out_) {}

  absl::Status Init() {
    device_.Activate();
    MSA_ASSIGN_OR_RETURN(workspace_,
                         device_.Allocate(table_.workspace_bytes(), Backend::Purpose::kWork));
    auto numbers = Pinned::Make(device_, 4 * max_sequences_ * sizeof(int32_t));
    MSA_RETURN_IF_ERROR(numbers.status());
    pinned_numbers_ = std::make_unique<Pinned>(*std::move(numbers));
    return Grow(table_.views_offset() +
                int64_t{max_sequences_} * shape_.num_layers * kRoomForViews * sizeof(TableView));
  }

  ~CudaSteps() override { device_.Wait(); }

  absl::Status SetSequences(absl::Span<const DecodeSequence> sequences) override {
    table_.Begin();
    std::vector<std::vector<AttentionKv>> blocks(sequences.size());
    std::vector<StepInput> inputs(sequences.size());
    for (int layer = 0; layer < shape_.num_layers; ++layer) {
      for (size_t i = 0; i < sequences.size(); ++i) {
        const DecodeLayer& own = sequences[i].layers[layer];
        blocks[i].clear();
        for (const KvView& view : own.blocks) blocks[i].push_back(KvOf(view));
        AttentionKv local;
        local.k = own.k;
        local.v = own.v;
        local.num_tokens = sequences[i].capacity;
        local.type = kv_type_;
        inputs[i] = {blocks[i], local};
      }
      if (!table_.SetLayer(layer, inputs)) {
        return absl::FailedPreconditionError("decode steps do not take these sequences");
      }
    }
    return Upload();
  }
  int64_t layout() const override { return layout_; }

  void SetInputs(absl::Span<const DecodeInput> inputs) override {
    auto* numbers = pinned_numbers_->as<int32_t>();
    for (size_t i = 0; i < inputs.size(); ++i) {
      numbers[i] = inputs[i].id;
      numbers[max_sequences_ + i] = inputs[i].position;
      numbers[2 * max_sequences_ + i] = static_cast<int32_t>(inputs[i].num_tokens);
    }
  }

  void Start(int64_t rows) override {
    StepStartArgs args;
    args.from = pinned_numbers_->as<int32_t>();
    args.to = numbers_;
    args.stride = max_sequences_;
    args.rows = static_cast<int>(rows);
    args.num_layers = shape_.num_layers;
    args.table = device_table_.data();
    args.layer_bytes = table_.layer_bytes();
    args.views_offset = table_.views_offset();
    device_.Check(StartStep(args, device_.stream()), "starting a step");
  }
  const int32_t* ids() const override { return numbers_; }
  const int32_t* positions() const override { return numbers_ + max_sequences_; }

  const float* Attend(int layer, const SplitQkvArgs& args) override {
    auto* table = device_table_.as<uint8_t>();
    QkvArgs qkv;
    qkv.qkv = args.qkv;
    qkv.rows = args.rows;
    qkv.num_q_heads = args.num_q_heads;
    qkv.num_kv_heads = args.num_kv_heads;
    qkv.head_dim = args.head_dim;
    qkv.q_norm = args.q_norm;
    qkv.k_norm = args.k_norm;
    qkv.eps = args.eps;
    qkv.positions = args.positions.data();
    qkv.inv_freq = args.inv_freq;
    qkv.q = q_;
    qkv.caches = reinterpret_cast<const KvSlots*>(table + table_.SlotsOffset(layer));
    qkv.cache_tokens = numbers_ + 2 * max_sequences_;
    qkv.cache_type = kv_type_;
    device_.Check(SplitQkv(qkv, device_.stream()), "splitting q, k and v");
    const AttentionLaunch launch = table_.Launch(layer, static_cast<int>(args.rows));
    device_.Check(LaunchAttention(launch, table + table_.LayerOffset(layer), workspace_.data(),
                                  device_.stream()),
                  "attention");
    return out_;
  }

  void Choose(const float* logits, int64_t rows, int64_t vocab) override {
    device_.Check(ArgMax(logits, rows, vocab, chosen(), nullptr, device_.stream()),
                  "choosing tokens");
  }
  absl::Span<const int32_t> Tokens(int64_t rows) override {
    device_.Wait();
    return {chosen(), static_cast<size_t>(rows)};
  }

 private:
  int32_t* chosen() const { return pinned_numbers_->as<int32_t>() + 3 * max_sequences_; }

  // The table at another address, with room for `bytes`; as it was where there is no memory for
  // both copies.
  absl::Status Grow(size_t bytes) {
    MSA_ASSIGN_OR_RETURN(Buffer table, device_.Allocate(bytes, Backend::Purpose::kWork));
    auto pinned = Pinned::Make(device_, bytes);
    MSA_RETURN_IF_ERROR(pinned.status());
    device_table_ = std::move(table);
    pinned_table_ = std::make_unique<Pinned>(*std::move(pinned));
    ++layout_;
    return absl::OkStatus();
  }

  // The step before has been waited for: its table may be written over.
  absl::Status Upload() {
    const auto fixed = table_.fixed_part();
    const auto views = table_.views();
    const size_t bytes = fixed.size() + views.size();
    if (bytes > device_table_.size()) MSA_RETURN_IF_ERROR(Grow(2 * bytes));
    auto* pinned = pinned_table_->as<uint8_t>();
    std::memcpy(pinned, fixed.data(), fixed.size());
    std::memcpy(pinned + table_.views_offset(), views.data(), views.size());
    device_.Copy(device_table_.data(), pinned, bytes);
    return device_.health();
  }

  Device& device_;
  const DecodeShape shape_;
  const ElementType kv_type_;
  const int max_sequences_;
  Buffer memory_;  // q, then out, then numbers
  float* const q_;
  float* const out_;
  int32_t* const numbers_;  // ids, positions, rows before the step; [max_sequences] each
  StepTable table_;
  Buffer workspace_;
  Buffer device_table_;
  std::unique_ptr<Pinned> pinned_table_;
  std::unique_ptr<Pinned> pinned_numbers_;  // as numbers_, then the tokens chosen
  int64_t layout_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DecodeSteps>> MakeCudaSteps(Device& device, const DecodeShape& shape,
                                                           AttentionPrecision precision,
                                                           ElementType kv_type, int max_sequences) {
  AttentionShape attention;
  attention.num_q_heads = shape.num_q_heads;
  attention.num_kv_heads = shape.num_kv_heads;
  attention.head_dim = shape.head_dim;
  attention.scale = shape.scale;
  attention.precision = precision;
  const int64_t width = int64_t{max_sequences} * shape.num_q_heads * shape.head_dim;
  MSA_ASSIGN_OR_RETURN(
      Buffer memory,
      device.Allocate((2 * width + 3 * max_sequences) * sizeof(float), Backend::Purpose::kWork));
  float* out = memory.as<float>() + width;
  auto steps = std::make_unique<CudaSteps>(device, shape, attention, kv_type, max_sequences,
                                           std::move(memory), out);
  MSA_RETURN_IF_ERROR(steps->Init());
  return steps;
}

}  // namespace msa::kernels::cuda

// One decode step of MSA-4B's shapes (36 layers, 18 of them with 16 documents of 9 chunks), by
// kernel and as a whole in a CUDA graph, beside the time its weights' bytes take at the device's
// copy bandwidth. One JSON line a measurement; medians.
//
// Usage: decode_bench [own tokens, default 450]
#include <memory>
#include <string>

#include "benchmarks/cuda/device_bench.cuh"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_table.h"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/skinny.h"
#include "kernels/cuda/step_start.h"
#include "kernels/cuda/step_table.h"

namespace msa::benchmarks {
namespace {

using namespace ::msa::kernels::cuda;

constexpr int kLayers = 36;
constexpr int kHidden = 2560;
constexpr int kInner = 9728;
constexpr int kQueryHeads = 32;
constexpr int kKvHeads = 8;
constexpr int kDim = 128;
constexpr int kQueries = kQueryHeads * kDim;
constexpr int kKeys = kKvHeads * kDim;
constexpr int kQkv = kQueries + 2 * kKeys;
constexpr int64_t kVocab = 151936;
constexpr int kRuns = 21;

// bfloat16 of about 0.01.
__global__ void FillHalf(uint16_t* to, int64_t count) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
    const float x = (static_cast<float>(Hash(i)) * (1.0f / 4294967296.0f) - 0.5f) * 0.05f;
    to[i] = static_cast<uint16_t>(__float_as_uint(x) >> 16);
  }
}

uint16_t* Half(int64_t count) {
  uint16_t* data = Allocate<uint16_t>(count);
  FillHalf<<<4096, 256>>>(data, count);
  return data;
}

float* Floats(int64_t count) {
  float* data = Allocate<float>(count);
  FillFloats<<<1024, 256>>>(data, count);
  return data;
}

struct Layer {
  uint16_t *qkv, *o, *gate_up, *down;
};

class Bench {
 public:
  Bench(int rows, int own_tokens, double bandwidth, cudaStream_t stream,
        const std::vector<Layer>& layers, const uint16_t* head)
      : rows_(rows),
        own_tokens_(own_tokens),
        bandwidth_(bandwidth),
        stream_(stream),
        layers_(layers),
        head_(head) {
    hidden_ = Floats(rows * kHidden);
    qkv_ = Floats(rows * kQkv);
    q_ = Floats(rows * kQueries);
    attended_ = Floats(rows * kQueries);
    gated_ = Floats(rows * kInner);
    logits_ = Floats(rows * kVocab);
    norm_ = Floats(kHidden);
    frequencies_ = Floats(kDim / 2);
    CUDA_OK(cudaHostAlloc(&pinned_, 4 * rows * sizeof(int32_t), 0));
    numbers_ = Allocate<int32_t>(3 * rows);
    for (int i = 0; i < rows; ++i) {
      pinned_[i] = i;
      pinned_[rows + i] = pinned_[2 * rows + i] = own_tokens;
    }
    MakeTable();
  }
  ~Bench() {
    for (void* data : std::vector<void*>{hidden_, qkv_, q_, attended_, gated_, logits_, norm_,
                                         frequencies_, numbers_, table_data_, workspace_, kv_}) {
      cudaFree(data);
    }
    cudaFreeHost(pinned_);
  }

  void Run() {
    const int64_t layer_bytes =
        2ll * (int64_t{kQkv} * kHidden + int64_t{kHidden} * kQueries + 3ll * kInner * kHidden);
    Report("start", 0, [&] { Start(); });
    Report("qkv", 2ll * kQkv * kHidden * kLayers, [&] { Each([&](int l) { Qkv(l); }); });
    Report("split", 0, [&] { Each([&](int l) { Split(l); }); });
    Report("attention", attention_bytes_, [&] { Each([&](int l) { Attend(l); }); });
    Report("o", 2ll * kHidden * kQueries * kLayers, [&] { Each([&](int l) { Out(l); }); });
    Report("gate_up", 4ll * kInner * kHidden * kLayers, [&] { Each([&](int l) { GateUp(l); }); });
    Report("down", 2ll * kInner * kHidden * kLayers, [&] { Each([&](int l) { Down(l); }); });
    Report("products", layer_bytes * kLayers, [&] {
      Each([&](int l) {
        Qkv(l);
        Out(l);
        GateUp(l);
        Down(l);
      });
    });
    Report("head", 2ll * kVocab * kHidden, [&] { Head(); });
    Report("argmax", 0, [&] { Choose(); });
    Report("step", layer_bytes * kLayers + 2ll * kVocab * kHidden, [&] {
      Start();
      Each([&](int l) {
        Qkv(l);
        Split(l);
        Attend(l);
        Out(l);
        GateUp(l);
        Down(l);
      });
      Head();
      Choose();
    });
  }

 private:
  void MakeTable() {
    AttentionShape shape;
    shape.num_q_heads = kQueryHeads;
    shape.num_kv_heads = kKvHeads;
    shape.head_dim = kDim;
    shape.scale = 0.088f;
    shape.precision = AttentionPrecision::kBFloat16;
    table_ = std::make_unique<StepTable>(shape, kLayers, rows_, q_, attended_);
    const int capacity = own_tokens_ + 64;
    const int64_t layer_rows = int64_t{rows_} * (capacity + 16 * 9 + 3);
    kv_ = Half(2 * layer_rows * kKeys * kLayers);
    uint16_t* next = kv_;
    const auto take = [&](int tokens) {
      AttentionKv kv;
      kv.k = next;
      kv.v = next + int64_t{tokens} * kKeys;
      next += 2ll * tokens * kKeys;
      kv.num_tokens = tokens;
      kv.type = ElementType::kBFloat16;
      return kv;
    };
    table_->Begin();
    for (int layer = 0; layer < kLayers; ++layer) {
      std::vector<std::vector<AttentionKv>> blocks(rows_);
      std::vector<StepInput> inputs(rows_);
      for (int i = 0; i < rows_; ++i) {
        blocks[i].push_back(take(3));
        for (int d = 0; d < 16 && layer >= kLayers / 2; ++d) blocks[i].push_back(take(9));
        inputs[i] = {blocks[i], take(capacity)};
        attention_bytes_ += 4ll * kKeys * (own_tokens_ + 3 + (layer >= kLayers / 2 ? 144 : 0));
      }
      if (!table_->SetLayer(layer, inputs)) {
        std::printf("the table takes no such sequences\n");
        std::exit(1);
      }
    }
    const auto fixed = table_->fixed_part();
    const auto views = table_->views();
    table_data_ = Allocate<uint8_t>(fixed.size() + views.size());
    CUDA_OK(cudaMemcpy(table_data_, fixed.data(), fixed.size(), cudaMemcpyHostToDevice));
    CUDA_OK(
        cudaMemcpy(table_data_ + fixed.size(), views.data(), views.size(), cudaMemcpyHostToDevice));
    workspace_ = Allocate<uint8_t>(table_->workspace_bytes());
  }

  template <class Body>
  void Each(const Body& body) {
    for (int layer = 0; layer < kLayers; ++layer) body(layer);
  }

  void Start() {
    StepStartArgs args;
    args.from = pinned_;
    args.to = numbers_;
    args.stride = args.rows = rows_;
    args.num_layers = kLayers;
    args.table = table_data_;
    args.layer_bytes = table_->layer_bytes();
    args.views_offset = table_->views_offset();
    CUDA_OK(StartStep(args, stream_));
  }
  SkinnyArgs Product(const uint16_t* w, int64_t out, int64_t in, const float* x) {
    SkinnyArgs args;
    args.w = w;
    args.out_features = out;
    args.in_features = in;
    args.x = x;
    args.rows = rows_;
    args.eps = 1e-6f;
    return args;
  }
  void Qkv(int l) {
    SkinnyArgs args = Product(layers_[l].qkv, kQkv, kHidden, hidden_);
    args.norm = norm_;
    args.y = qkv_;
    CUDA_OK(SkinnyLinear(args, stream_));
  }
  void Split(int l) {
    QkvArgs args;
    args.qkv = qkv_;
    args.rows = rows_;
    args.num_q_heads = kQueryHeads;
    args.num_kv_heads = kKvHeads;
    args.head_dim = kDim;
    args.q_norm = args.k_norm = norm_;
    args.eps = 1e-6f;
    args.positions = numbers_ + rows_;
    args.inv_freq = frequencies_;
    args.q = q_;
    args.caches = reinterpret_cast<const KvSlots*>(table_data_ + table_->SlotsOffset(l));
    args.cache_tokens = numbers_ + 2 * rows_;
    args.cache_type = ElementType::kBFloat16;
    CUDA_OK(SplitQkv(args, stream_));
  }
  void Attend(int l) {
    CUDA_OK(LaunchAttention(table_->Launch(l, rows_), table_data_ + table_->LayerOffset(l),
                            workspace_, stream_));
  }
  void Out(int l) {
    SkinnyArgs args = Product(layers_[l].o, kHidden, kQueries, attended_);
    args.then = SkinnyThen::kAdd;
    args.y = hidden_;
    CUDA_OK(SkinnyLinear(args, stream_));
  }
  void GateUp(int l) {
    SkinnyArgs args = Product(layers_[l].gate_up, 2 * kInner, kHidden, hidden_);
    args.norm = norm_;
    args.then = SkinnyThen::kSiluMul;
    args.y = gated_;
    args.y_half = true;
    CUDA_OK(SkinnyLinear(args, stream_));
  }
  void Down(int l) {
    SkinnyArgs args = Product(layers_[l].down, kHidden, kInner, gated_);
    args.x_half = true;
    args.then = SkinnyThen::kAdd;
    args.y = hidden_;
    CUDA_OK(SkinnyLinear(args, stream_));
  }
  void Head() {
    SkinnyArgs args = Product(head_, kVocab, kHidden, hidden_);
    args.norm = norm_;
    args.y = logits_;
    CUDA_OK(SkinnyLinear(args, stream_));
  }
  void Choose() { CUDA_OK(ArgMax(logits_, rows_, kVocab, pinned_ + 3 * rows_, nullptr, stream_)); }

  // The median of runs of a graph of what `body` asks for.
  void Report(const char* name, int64_t bytes, const std::function<void()>& body) {
    body();
    CUDA_OK(cudaStreamSynchronize(stream_));
    const Time time = MeasureGraph(stream_, kRuns, body);
    const double floor_us = static_cast<double>(bytes) / bandwidth_ * 1e-3;
    std::printf(
        "{\"what\": \"%s\", \"rows\": %d, \"us\": %.1f, \"low\": %.1f, \"floor_us\": %.1f, "
        "\"of_floor\": %.3f}\n",
        name, rows_, time.median, time.low, floor_us, floor_us / time.median);
    std::fflush(stdout);
  }

  const int rows_;
  const int own_tokens_;
  const double bandwidth_;  // GB/s
  const cudaStream_t stream_;
  const std::vector<Layer>& layers_;
  const uint16_t* head_;
  float *hidden_, *qkv_, *q_, *attended_, *gated_, *logits_, *norm_, *frequencies_;
  int32_t *pinned_, *numbers_;
  std::unique_ptr<StepTable> table_;
  uint8_t *table_data_, *workspace_;
  uint16_t* kv_;
  int64_t attention_bytes_ = 0;
};

}  // namespace
}  // namespace msa::benchmarks

int main(int argc, char** argv) {
  using namespace msa::benchmarks;
  const int own_tokens = argc > 1 ? std::atoi(argv[1]) : 450;
  const int64_t bytes = int64_t{4} << 30;
  char* memory = Allocate<char>(bytes);
  const double bandwidth = CopyBandwidth(memory, bytes);
  cudaFree(memory);
  std::printf("{\"copy_gb_s\": %.0f}\n", bandwidth);
  std::vector<Layer> layers;
  for (int l = 0; l < kLayers; ++l) {
    Layer layer = {};
    layer.qkv = Half(int64_t{kQkv} * kHidden);
    layer.o = Half(int64_t{kHidden} * kQueries);
    layer.gate_up = Half(2ll * kInner * kHidden);
    layer.down = Half(int64_t{kInner} * kHidden);
    layers.push_back(layer);
  }
  const uint16_t* head = Half(kVocab * kHidden);
  CUDA_OK(cudaDeviceSynchronize());
  cudaStream_t stream;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (const int rows : {1, 2, 4, 8})
    Bench(rows, own_tokens, bandwidth, stream, layers, head).Run();
  return 0;
}

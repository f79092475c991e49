#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/cpu/routing.h"
#include "kernels/cuda/append.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/bank_routing.h"
#include "kernels/cuda/cuda_steps.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/nccl_collective.h"
#include "kernels/cuda/recording.h"
#include "kernels/cuda/staging.h"

namespace msa::kernels {
namespace cuda {
namespace {

class CudaBackend : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Make(const BackendOptions& options) {
    MSA_ASSIGN_OR_RETURN(auto device, Device::Open(options));
    MSA_ASSIGN_OR_RETURN(auto products, Products::Make(*device));
    return std::unique_ptr<CudaBackend>(new CudaBackend(std::move(device), std::move(products)));
  }
  Device& device() const { return *device_; }

  std::string_view name() const override { return "cuda"; }

  absl::StatusOr<Buffer> Allocate(size_t bytes, Purpose purpose) const override {
    return device_->Allocate(bytes, purpose);
  }
  void Copy(void* to, const void* from, size_t bytes) const override {
    device_->Copy(to, from, bytes);
  }
  Buffer StartFetch(const void* from, size_t bytes) const override {
    return device_->StartFetch(from, bytes);
  }
  std::unique_ptr<Mark> MakeMark() const override { return device_->MakeMark(); }
  bool memory_is_host() const override { return false; }
  int64_t free_bytes() const override { return device_->free_bytes(); }
  int64_t host_tier_bytes() const override { return device_->host_bytes(); }
  absl::Status Health() const override { return device_->health(); }

  void CopyColumns(const float* x, int64_t rows, int64_t stride, int64_t begin, int64_t width,
                   float* out) const override {
    if (rows == 0) return;
    Staging staging(*device_);
    const float* from = staging.In(x, rows * stride);
    float* to = staging.Out(out, rows * width);
    if (staging.failed()) return;
    Check(cudaMemcpy2DAsync(to, width * sizeof(float), from + begin, stride * sizeof(float),
                            width * sizeof(float), rows, cudaMemcpyDeviceToDevice, stream()),
          "copying columns");
  }

  void AppendRows(const float* k, const float* v, int64_t width,
                  absl::Span<const AppendArgs> targets) const override {
    int64_t max_rows = 0, all_rows = 0;
    std::vector<AppendTarget> table;
    for (const AppendArgs& target : targets) {
      if (!device_->Reaches(target.k)) return Backend::AppendRows(k, v, width, targets);
      table.push_back({target.k, target.v, target.first_row, target.rows,
                       static_cast<ElementType>(target.dtype)});
      max_rows = std::max(max_rows, target.rows);
      all_rows = std::max(all_rows, target.first_row + target.rows);
    }
    if (max_rows == 0) return;
    Staging staging(*device_);
    const float* from_k = staging.In(k, all_rows * width);
    const float* from_v = staging.In(v, all_rows * width);
    const AppendTarget* on_device = staging.In(table.data(), table.size());
    if (staging.failed()) return;
    Check(cuda::AppendRows(from_k, from_v, width, on_device, static_cast<int>(table.size()),
                           max_rows, stream()),
          "appending K and V");
  }

  void GatherRows(const float* x, int64_t width, absl::Span<const int32_t> rows,
                  float* out) const override {
    if (rows.empty()) return;
    Staging staging(*device_);
    const int64_t last = *std::max_element(rows.begin(), rows.end());
    const float* from = staging.In(x, (last + 1) * width);
    const int32_t* indices = staging.In(rows.data(), rows.size());
    float* to = staging.Out(out, rows.size() * width);
    if (staging.failed()) return;
    Check(cuda::GatherRows(from, ElementType::kFloat32, indices, rows.size(), width, width,
                           {.f32 = to}, stream()),
          "gathering rows");
  }

  void PoolChunks(const float* x, int64_t num_tokens, int64_t width, int64_t chunk_tokens,
                  float* out) const override {
    if (num_tokens == 0) return;
    Staging staging(*device_);
    PoolArgs args;
    args.x = staging.In(x, num_tokens * width);
    args.stride = width;
    args.num_chunks = (num_tokens + chunk_tokens - 1) / chunk_tokens;
    args.chunk_tokens = chunk_tokens;
    args.num_tokens = num_tokens;
    args.num_heads = 1;
    args.head_dim = static_cast<int>(width);
    args.out = staging.Out(out, args.num_chunks * width);
    if (staging.failed()) return;
    Check(cuda::PoolChunks(args, stream()), "pooling");
  }

  void PoolPacked(const PoolPackedArgs& a) const override {
    const auto num_chunks = static_cast<int64_t>(a.chunk_begin.size()) - 1;
    if (num_chunks <= 0) return;
    const int64_t width = int64_t{a.num_heads} * a.head_dim;
    Staging staging(*device_);
    PoolArgs args;
    args.x = staging.In(a.x, a.chunk_begin.back() * width);
    args.stride = width;
    args.chunk_begin = staging.In(a.chunk_begin.data(), num_chunks + 1);
    args.num_chunks = num_chunks;
    args.num_heads = a.num_heads;
    args.head_dim = a.head_dim;
    args.normalize = a.normalize;
    args.type = static_cast<ElementType>(a.dtype);
    args.out = staging.OutBytes(a.out, num_chunks * width * DTypeBytes(a.dtype));
    args.scale_per_head = a.scale_per_head;
    if (HasScales(a.dtype)) {
      args.scales = staging.Out(a.scales, num_chunks * (a.scale_per_head ? a.num_heads : 1));
    }
    if (staging.failed()) return;
    Check(cuda::PoolChunks(args, stream()), "pooling");
  }

  void L2Normalize(float* x, int64_t rows, int64_t head_dim) const override {
    Staging staging(*device_);
    float* data = staging.InOut(x, rows * head_dim);
    if (staging.failed()) return;
    Check(cuda::L2Normalize(data, rows, head_dim, stream()), "normalising");
  }

  void FoldQueries(const float* q, int64_t num_tokens, int num_q_heads, int num_kv_heads,
                   int head_dim, float* out) const override {
    Staging staging(*device_);
    const float* from = staging.In(q, num_tokens * num_q_heads * head_dim);
    float* to = staging.Out(out, num_tokens * num_kv_heads * head_dim);
    if (staging.failed()) return;
    Check(cuda::FoldQueries(from, num_tokens, num_q_heads, num_kv_heads, head_dim, to, stream()),
          "folding queries");
  }

  void Quantize(const float* x, int64_t rows, int64_t width, DType dtype, void* out,
                float* scales) const override {
    Staging staging(*device_);
    const float* from = staging.In(x, rows * width);
    void* to = staging.OutBytes(out, rows * width * DTypeBytes(dtype));
    float* to_scales = HasScales(dtype) ? staging.Out(scales, rows) : nullptr;
    if (staging.failed()) return;
    Check(
        cuda::Quantize(from, rows, width, static_cast<ElementType>(dtype), to, to_scales, stream()),
        "quantising");
  }

  void Dequantize(const void* x, const float* scales, int64_t rows, int64_t width, DType dtype,
                  float* out) const override {
    Staging staging(*device_);
    const void* from = staging.InBytes(x, rows * width * DTypeBytes(dtype));
    const float* from_scales = HasScales(dtype) ? staging.In(scales, rows) : nullptr;
    float* to = staging.Out(out, rows * width);
    if (staging.failed()) return;
    Check(cuda::Dequantize(from, from_scales, rows, width, static_cast<ElementType>(dtype), to,
                           stream()),
          "dequantising");
  }

  void ScoreParts(const ScoreArgs& args) const override {
    ScoreBank({args.shape, {&args.segment, 1}, args.queries, args.query_begin, args.scores});
  }
  bool ScoreBank(const ScoreBankArgs& args) const override { return ScoreBankOn(*device_, args); }
  void ScoreListed(const ScoreListedArgs& args) const override {
    if (!ScoreListedOn(*device_, args)) Backend::ScoreListed(args);
  }
  void RaiseMaxNorm(const KeySegment& segment, int64_t key_width, int64_t first_chunk,
                    float* max_norm) const override {
    RaiseMaxNormOn(*device_, segment, key_width, first_chunk, max_norm);
  }
  void EncodeCoarse(const KeySegment& segment, int64_t key_width, int64_t first_chunk,
                    uint8_t* codes, float* scales) const override {
    EncodeCoarseOn(*device_, segment, key_width, first_chunk, codes, scales);
  }
  void MeanOfScores(absl::Span<const float* const> scores, int64_t n, float* mean) const override {
    MeanOfScoresOn(*device_, scores, n, mean);
  }
  std::vector<IndexedScore> TopIndices(const float* scores, int64_t n, int k) const override {
    if (n == 0) return {};
    std::vector<char> found(TopIndicesBytes(k), '\xff');
    TopIndicesOn(*device_, scores, n, k, found.data());
    if (!device_->health().ok()) return {};  // what was found may be anything
    return ParseTopIndices(found.data(), k);
  }
  void TopIndicesInto(const float* scores, int64_t n, int k, void* out) const override {
    TopIndicesOn(*device_, scores, n, k, out);
  }
  BestListed ListBest(const ListBestArgs& args) const override {
    std::vector<char> found(ListBestBytes(args.k), '\xff');
    if (!ListBestOn(*device_, args, found.data())) return Backend::ListBest(args);
    if (!device_->health().ok()) return {.parts = {}, .error = std::nanf("")};
    return ParseListBest(found.data(), args.k);
  }
  void ListBestInto(const ListBestArgs& args, void* out) const override {
    if (!ListBestOn(*device_, args, out)) Backend::ListBestInto(args, out);
  }

  // Candidates are in the processor's memory, where a scan of them is short beside the pass.
  std::vector<ScoredPart> SelectTopK(absl::Span<const float> scores,
                                     absl::Span<const int64_t> references, const uint8_t* visible,
                                     int k) const override {
    return CpuSelectTopK(scores, references, visible, k);
  }

  void Attend(absl::Span<const AttentionArgs> sequences) const override;
  // What the tensor cores' attention rounds K and V to anyway.
  DType KvDType(int head_dim) const override {
    const bool tensor_cores = half_weights_ && (head_dim == 64 || head_dim == 128);
    return tensor_cores ? DType::kBFloat16 : DType::kFloat32;
  }
  absl::StatusOr<std::unique_ptr<DecodeSteps>> MakeDecodeSteps(const DecodeShape& shape,
                                                               int max_sequences) const override {
    return MakeCudaSteps(*device_, shape, precision(),
                         static_cast<ElementType>(KvDType(shape.head_dim)), max_sequences);
  }
  std::unique_ptr<Recording> Record(std::function<void()> operations) const override {
    return MakeRecording(*device_, products_->mutex(), std::move(operations));
  }

  absl::StatusOr<std::unique_ptr<LinearWeights>> PackLinear(const float* w, int64_t out_features,
                                                            int64_t in_features,
                                                            WeightFormat format) const override {
    if (format != WeightFormat::kFloat32) half_weights_ = true;
    return products_->Pack(w, out_features, in_features, format);
  }
  bool rounds_activations(WeightFormat format) const override {
    return format != WeightFormat::kFloat32;
  }
  void Linear(const LinearWeights& w, const float* x, int64_t rows, const float* bias,
              float* y) const override {
    LinearArgs args;
    args.x = x;
    args.rows = rows;
    args.bias = bias;
    args.y = y;
    FusedLinear(w, args);
  }
  void FusedLinear(const LinearWeights& w, const LinearArgs& args) const override {
    if (args.rows == 0) return;
    const int64_t in = args.rows * w.in_features();
    const int64_t out = args.rows * w.out_features();
    const bool silu = args.then == LinearThen::kSiluMul;
    Staging staging(*device_);
    LinearArgs staged = args;
    staged.x = staging.InBytes(args.x, in * DTypeBytes(args.x_dtype));
    staged.norm = staging.In(args.norm, w.in_features());
    staged.normed = staging.Out(args.normed, in);
    staged.bias = staging.In(args.bias, w.out_features());
    staged.product = silu ? staging.Out(args.product, out) : nullptr;
    if (args.then == LinearThen::kAdd) {
      staged.y = staging.InOut(static_cast<float*>(args.y), out);
    } else {
      staged.y = staging.OutBytes(args.y, (silu ? out / 2 : out) * DTypeBytes(args.y_dtype));
    }
    if (staging.failed()) return;
    products_->Linear(static_cast<const CudaLinearWeights&>(w), staged);
  }

  void Embed(const void* table, DType dtype, int64_t width, absl::Span<const int32_t> ids,
             float* out) const override {
    if (ids.empty()) return;
    Staging staging(*device_);
    const void* rows = table;
    if (!device_->Reaches(table)) {
      const int64_t last = *std::max_element(ids.begin(), ids.end());
      rows = staging.InBytes(table, (last + 1) * width * DTypeBytes(dtype));
    }
    const int32_t* indices = staging.In(ids.data(), ids.size());
    float* to = staging.Out(out, ids.size() * width);
    if (staging.failed()) return;
    Check(cuda::GatherRows(rows, static_cast<ElementType>(dtype), indices, ids.size(), width, width,
                           {.f32 = to}, stream()),
          "embedding");
  }

  void RmsNorm(const float* x, const float* weight, int64_t rows, int64_t width, float eps,
               float* out) const override {
    Staging staging(*device_);
    const float* from = staging.In(x, rows * width);
    const float* scale = staging.In(weight, width);
    float* to = staging.Out(out, rows * width);
    if (staging.failed()) return;
    Check(cuda::RmsNorm(from, scale, rows, width, eps, {.f32 = to}, stream()), "a norm");
  }

  void Rope(float* x, absl::Span<const int32_t> positions, int num_heads, int head_dim,
            const float* inv_freq, float magnitude) const override {
    Staging staging(*device_);
    const auto rows = static_cast<int64_t>(positions.size());
    float* data = staging.InOut(x, rows * num_heads * head_dim);
    const int32_t* at = staging.In(positions.data(), rows);
    const float* frequencies = staging.In(inv_freq, head_dim / 2);
    if (staging.failed()) return;
    Check(cuda::Rope(data, at, rows, num_heads, head_dim, frequencies, magnitude, stream()),
          "rotating");
  }

  void SplitQkv(const SplitQkvArgs& a) const override {
    Staging staging(*device_);
    const int64_t q_size = a.rows * a.num_q_heads * a.head_dim;
    const int64_t kv_size = a.rows * a.num_kv_heads * a.head_dim;
    QkvArgs args;
    args.qkv = staging.In(a.qkv, q_size + 2 * kv_size);
    args.rows = a.rows;
    args.num_q_heads = a.num_q_heads;
    args.num_kv_heads = a.num_kv_heads;
    args.head_dim = a.head_dim;
    args.q_norm = staging.In(a.q_norm, a.head_dim);
    args.k_norm = staging.In(a.k_norm, a.head_dim);
    args.eps = a.eps;
    args.positions = staging.In(a.positions.data(), a.rows);
    args.inv_freq = staging.In(a.inv_freq, a.head_dim / 2);
    args.q = staging.Out(a.q, q_size);
    args.k = staging.Out(a.k, kv_size);
    args.v = staging.Out(a.v, kv_size);
    if (staging.failed()) return;
    Check(cuda::SplitQkv(args, stream()), "splitting q, k and v");
  }

  void SiluMul(const float* gate_up, int64_t rows, int64_t width, float* out) const override {
    Staging staging(*device_);
    const float* gate = staging.In(gate_up, rows * 2 * width);
    float* to = staging.Out(out, rows * width);
    if (staging.failed()) return;
    Check(cuda::SiluMul(gate, gate + width, rows, width, 2 * width, {.f32 = to}, stream()),
          "an activation");
  }

  void ArgMax(const float* x, int64_t rows, int64_t width, int32_t* indices) const override {
    Staging staging(*device_);
    const float* from = staging.In(x, rows * width);
    int32_t* to = staging.Out(indices, rows);
    if (staging.failed()) return;
    Check(cuda::ArgMax(from, rows, width, to, nullptr, stream()), "choosing tokens");
  }

  void Add(float* x, const float* y, int64_t n) const override {
    Staging staging(*device_);
    float* sum = staging.InOut(x, n);
    const float* addend = staging.In(y, n);
    if (staging.failed()) return;
    Check(cuda::Add(sum, addend, n, stream()), "adding");
  }

 private:
  CudaBackend(std::unique_ptr<Device> device, std::unique_ptr<Products> products)
      : device_(std::move(device)), products_(std::move(products)) {}

  cudaStream_t stream() const { return device_->stream(); }
  AttentionPrecision precision() const {
    return half_weights_ ? AttentionPrecision::kBFloat16 : AttentionPrecision::kFloat32;
  }
  void Check(cudaError_t error, const char* what) const { device_->Check(error, what); }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Products> products_;
  // Models of rounded weights attend in bfloat16 too.
  mutable std::atomic<bool> half_weights_{false};
};

AttentionKv Staged(const KvView& view, int64_t kv_width, int num_kv_heads, Staging& staging) {
  const int64_t elements = view.num_tokens * kv_width;
  const size_t bytes = elements * DTypeBytes(view.dtype);
  AttentionKv kv;
  kv.num_tokens = view.num_tokens;
  kv.type = static_cast<ElementType>(view.dtype);
  // What is of one view is in one memory.
  if (staging.Reaches(view.k)) {
    kv.k = view.k;
    kv.v = view.v;
    if (!HasScales(view.dtype)) return kv;
    kv.k_scales = view.k_scales;
    kv.v_scales = view.v_scales;
    return kv;
  }
  kv.k = staging.InBytes(view.k, bytes);
  kv.v = staging.InBytes(view.v, bytes);
  if (HasScales(view.dtype)) {
    kv.k_scales = staging.In(view.k_scales, view.num_tokens * num_kv_heads);
    kv.v_scales = staging.In(view.v_scales, view.num_tokens * num_kv_heads);
  }
  return kv;
}

void CudaBackend::Attend(absl::Span<const AttentionArgs> sequences) const {
  if (sequences.empty()) return;
  const AttentionArgs& first = sequences.front();
  AttentionShape shape;
  shape.num_q_heads = first.num_q_heads;
  shape.num_kv_heads = first.num_kv_heads;
  shape.head_dim = first.head_dim;
  shape.scale = first.scale;
  shape.precision = precision();
  const int64_t q_width = int64_t{first.num_q_heads} * first.head_dim;
  const int64_t kv_width = int64_t{first.num_kv_heads} * first.head_dim;
  Staging staging(*device_);
  std::vector<std::vector<AttentionKv>> blocks(sequences.size());
  std::vector<AttentionInput> inputs(sequences.size());
  for (size_t s = 0; s < sequences.size(); ++s) {
    const AttentionArgs& sequence = sequences[s];
    MSA_CHECK(sequence.num_q_heads == first.num_q_heads && sequence.scale == first.scale);
    for (const KvView& view : sequence.blocks) {
      blocks[s].push_back(Staged(view, kv_width, first.num_kv_heads, staging));
    }
    AttentionInput& input = inputs[s];
    input.q = staging.In(sequence.q, sequence.num_queries * q_width);
    input.out = staging.Out(sequence.out, sequence.num_queries * q_width);
    input.num_queries = sequence.num_queries;
    input.blocks = blocks[s];
    input.local = Staged(sequence.local, kv_width, first.num_kv_heads, staging);
    input.first_visible = sequence.first_visible;
    input.causal = sequence.causal;
  }
  if (staging.failed()) return;
  AttentionOptions options;
  options.hopper = device_->hopper();
  const AttentionPlan plan = PlanAttention(shape, inputs, options);
  void* table = staging.Room(plan.table.size());
  void* workspace = staging.Room(plan.launch.workspace_bytes);
  if (staging.failed()) return;
  device_->Copy(table, plan.table.data(), plan.table.size());
  Check(LaunchAttention(plan.launch, table, workspace, stream()), "attention");
}

}  // namespace
}  // namespace cuda

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options) {
  return cuda::CudaBackend::Make(options);
}

absl::StatusOr<CudaBackends> MakeCudaBackends(const BackendOptions& options,
                                              const std::vector<int>& gpus) {
  CudaBackends made;
  std::vector<cuda::Device*> devices;
  for (const int gpu : gpus) {
    BackendOptions of_one = options;
    of_one.gpu = gpu;
    of_one.host_memory_bytes = options.host_memory_bytes / static_cast<int64_t>(gpus.size());
    MSA_ASSIGN_OR_RETURN(auto backend, cuda::CudaBackend::Make(of_one));
    devices.push_back(&backend->device());
    made.members.push_back(std::move(backend));
  }
  if (devices.size() < 2) return made;
#ifdef MSA_WITH_NCCL
  MSA_ASSIGN_OR_RETURN(made.collective, cuda::MakeNcclCollective(std::move(devices), {}));
  return made;
#else
  return absl::FailedPreconditionError(
      "this build is for one GPU: build where nccl.h is found, or name one GPU");
#endif
}

}  // namespace msa::kernels

// Attention at MSA-4B's shape (32 query heads, 8 KV heads of size 128), beside the device's own
// copy bandwidth. One JSON line a measurement; medians over replays of a CUDA graph, whose launches
// rotate over data sets larger than the L2 cache.
#include <cstring>
#include <memory>
#include <string>

#include "benchmarks/cuda/device_bench.cuh"
#include "kernels/cuda/attention.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kQueryHeads = 32;
constexpr int kKvHeads = 8;
constexpr int kDim = 128;
constexpr int kDocuments = 16;
constexpr int kChunksPerDocument = 9;
constexpr int kTemplateTokens = 3;
constexpr int kRuns = 9;

// Random elements of order 1: words whose float32, bfloat16, int8 readings all are finite.
__global__ void FillKernel(uint8_t* data, size_t elements, int type, uint32_t seed) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements;
       i += step) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed;
    x ^= x >> 16;
    x *= 0x85ebca6bu;
    x ^= x >> 13;
    const float value = static_cast<float>(x & 0xffff) / 32768.0f - 1.0f;
    if (type == 4) reinterpret_cast<float*>(data)[i] = value;
    if (type == 2) {
      reinterpret_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(__float_as_uint(value) >> 16);
    }
    if (type == 1) data[i] = static_cast<uint8_t>(x & 0x3f);
  }
}

__global__ void CopyKernel(const uint4* from, uint4* to, size_t n) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
#pragma unroll 4
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) {
    to[i] = from[i];
  }
}

class Arena {
 public:
  explicit Arena(size_t bytes) : bytes_(bytes) { CUDA_OK(cudaMalloc(&base_, bytes)); }
  ~Arena() { cudaFree(base_); }
  void* Take(size_t elements, ElementType type) {
    const size_t bytes = (elements * ElementBytes(type) + 255) / 256 * 256;
    if (used_ + bytes > bytes_) {
      std::printf("FATAL: arena is full\n");
      std::exit(2);
    }
    uint8_t* at = base_ + used_;
    used_ += bytes;
    FillKernel<<<512, 256>>>(at, elements, static_cast<int>(ElementBytes(type)),
                             static_cast<uint32_t>(used_));
    return at;
  }
  void Reset() { used_ = 0; }

 private:
  size_t bytes_;
  size_t used_ = 0;
  uint8_t* base_ = nullptr;
};

// A launch's share of the median replay.
template <class Body>
double MedianMicroseconds(int launches, const Body& body) {
  cudaStream_t stream;
  CUDA_OK(cudaStreamCreate(&stream));
  const benchmarks::Time time = benchmarks::MeasureGraph(stream, kRuns, [&] {
    for (int i = 0; i < launches; ++i) body(i, stream);
  });
  CUDA_OK(cudaStreamDestroy(stream));
  return time.median / launches;
}

double MeasureCopy() {
  const size_t bytes = size_t{2} << 30;
  void *from, *to;
  CUDA_OK(cudaMalloc(&from, bytes));
  CUDA_OK(cudaMalloc(&to, bytes));
  FillKernel<<<1024, 256>>>(static_cast<uint8_t*>(from), bytes / 4, 4, 1);
  const double engine = MedianMicroseconds(2, [&](int, cudaStream_t stream) {
    CUDA_OK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
  });
  const double kernel = MedianMicroseconds(2, [&](int, cudaStream_t stream) {
    CopyKernel<<<132 * 8, 512, 0, stream>>>(static_cast<const uint4*>(from),
                                            static_cast<uint4*>(to), bytes / 16);
  });
  cudaFree(from);
  cudaFree(to);
  cudaDeviceProp device;
  CUDA_OK(cudaGetDeviceProperties(&device, 0));
  const double gb_per_s = 2.0 * bytes / std::min(engine, kernel) / 1000;
  std::printf(
      "{\"what\":\"copy\",\"device\":\"%s\",\"memcpy_gb_per_s\":%.0f,\"kernel_gb_per_s\":%.0f}\n",
      device.name, 2.0 * bytes / engine / 1000, 2.0 * bytes / kernel / 1000);
  return gb_per_s;
}

struct Ready {
  AttentionPlan plan;
  void* table = nullptr;
  void* workspace = nullptr;

  Ready(const AttentionShape& shape, const std::vector<AttentionInput>& inputs,
        const AttentionOptions& options)
      : plan(PlanAttention(shape, inputs, options)) {
    CUDA_OK(cudaMalloc(&table, plan.table.size()));
    CUDA_OK(cudaMalloc(&workspace, plan.launch.workspace_bytes + 1));
    CUDA_OK(cudaMemcpy(table, plan.table.data(), plan.table.size(), cudaMemcpyHostToDevice));
  }
  Ready(const Ready&) = delete;
  ~Ready() {
    cudaFree(table);
    cudaFree(workspace);
  }
  void Launch(cudaStream_t stream) const {
    CUDA_OK(LaunchAttention(plan.launch, table, workspace, stream));
  }
};

AttentionShape Shape(AttentionPrecision precision) {
  return {kQueryHeads, kKvHeads, kDim, 0.08838834764f, precision};
}

AttentionKv MakeKv(Arena& arena, int64_t tokens, ElementType type) {
  AttentionKv kv;
  kv.num_tokens = tokens;
  kv.type = type;
  kv.k = arena.Take(tokens * kKvHeads * kDim, type);
  kv.v = arena.Take(tokens * kKvHeads * kDim, type);
  if (IsScaled(type)) {
    const size_t scales = tokens * kKvHeads;
    kv.k_scales = static_cast<const float*>(arena.Take(scales, ElementType::kFloat32));
    kv.v_scales = static_cast<const float*>(arena.Take(scales, ElementType::kFloat32));
  }
  return kv;
}

double KvBytes(const AttentionKv& kv) {
  const double row = kKvHeads * (kDim * ElementBytes(kv.type) + (IsScaled(kv.type) ? 4.0 : 0.0));
  return 2 * row * static_cast<double>(kv.num_tokens);
}

struct DecodeCase {
  const char* name;
  ElementType prefix, memory, local;
  AttentionPrecision precision;
};

void BenchDecode(const DecodeCase& c, int batch, int local_tokens, int split, double copy_gb_per_s,
                 Arena& arena) {
  arena.Reset();
  const int sets = std::max(1, std::min(16, (local_tokens > 10000 ? 8 : 64) / batch));
  std::vector<std::vector<AttentionKv>> blocks(sets * batch);
  std::vector<std::unique_ptr<Ready>> ready;
  double bytes = 0;
  for (int set = 0; set < sets; ++set) {
    std::vector<AttentionInput> inputs;
    bytes = 0;
    for (int b = 0; b < batch; ++b) {
      std::vector<AttentionKv>& of_sequence = blocks[set * batch + b];
      of_sequence.push_back(MakeKv(arena, kTemplateTokens, c.prefix));
      for (int d = 0; d < kDocuments; ++d) {
        of_sequence.push_back(MakeKv(arena, kChunksPerDocument, c.memory));
      }
      AttentionInput input;
      input.num_queries = 1;
      input.blocks = of_sequence;
      input.local = MakeKv(arena, local_tokens, c.local);
      input.first_visible = local_tokens - 1;
      input.q = static_cast<float*>(arena.Take(kQueryHeads * kDim, ElementType::kFloat32));
      input.out = static_cast<float*>(arena.Take(kQueryHeads * kDim, ElementType::kFloat32));
      for (const AttentionKv& kv : of_sequence) bytes += KvBytes(kv);
      bytes += KvBytes(input.local) + 2 * 4.0 * kQueryHeads * kDim;
      inputs.push_back(input);
    }
    ready.push_back(std::make_unique<Ready>(Shape(c.precision), inputs,
                                            AttentionOptions{.decode_split_tokens = split}));
  }
  const double us = MedianMicroseconds(
      std::max(4, sets), [&](int i, cudaStream_t stream) { ready[i % sets]->Launch(stream); });
  const double gb_per_s = bytes / us / 1000;
  std::printf(
      "{\"what\":\"decode\",\"kv\":\"%s\",\"batch\":%d,\"local\":%d,\"split\":%d,\"us\":%.1f,"
      "\"gb_per_s\":%.0f,\"share_of_copy\":%.3f}\n",
      c.name, batch, local_tokens, split, us, gb_per_s, gb_per_s / copy_gb_per_s);
}

void BenchPrefill(const char* name, AttentionPrecision precision, ElementType local, int sequences,
                  int queries, int context, bool memory, bool hopper, Arena& arena) {
  arena.Reset();
  std::vector<std::vector<AttentionKv>> blocks(sequences);
  std::vector<AttentionInput> inputs;
  double products = 0;
  for (int s = 0; s < sequences; ++s) {
    AttentionInput input;
    int64_t block_tokens = 0;
    if (memory) {
      for (int d = 0; d < kDocuments; ++d) {
        blocks[s].push_back(MakeKv(arena, kChunksPerDocument, ElementType::kInt8));
        block_tokens += kChunksPerDocument;
      }
    }
    input.blocks = blocks[s];
    input.num_queries = queries;
    input.local = MakeKv(arena, context, local);
    input.first_visible = context - queries;
    const size_t n = static_cast<size_t>(queries) * kQueryHeads * kDim;
    input.q = static_cast<float*>(arena.Take(n, ElementType::kFloat32));
    input.out = static_cast<float*>(arena.Take(n, ElementType::kFloat32));
    for (int i = 0; i < queries; ++i) {
      products += static_cast<double>(block_tokens + context - queries + i + 1);
    }
    inputs.push_back(input);
  }
  Ready ready(Shape(precision), inputs, AttentionOptions{.hopper = hopper});
  const double us = MedianMicroseconds(3, [&](int, cudaStream_t stream) { ready.Launch(stream); });
  const double tflops = products * kQueryHeads * kDim * 4 / us / 1e6;
  std::printf(
      "{\"what\":\"prefill\",\"case\":\"%s\",\"hopper\":%d,\"sequences\":%d,\"queries\":%d,"
      "\"context\":%d,\"us\":%.1f,\"tflop_per_s\":%.1f}\n",
      name, hopper ? 1 : 0, sequences, queries, context, us, tflops);
}

}  // namespace
}  // namespace msa::kernels::cuda

int main(int argc, char** argv) {
  using namespace msa::kernels::cuda;  // NOLINT: the whole program measures it
  constexpr auto kF32 = ElementType::kFloat32;
  constexpr auto kBf16 = ElementType::kBFloat16;
  constexpr auto kInt8 = ElementType::kInt8;
  constexpr auto kFp8 = ElementType::kFloat8E4M3;
  constexpr auto kTensor = AttentionPrecision::kBFloat16;
  constexpr auto kExact = AttentionPrecision::kFloat32;
  const bool hopper = argc > 1 && std::strcmp(argv[1], "hopper") == 0;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const double copy = MeasureCopy();
  Arena arena(size_t{6} << 30);
  const DecodeCase cases[] = {
      {"bf16", kBf16, kBf16, kBf16, kTensor},      {"int8+bf16", kBf16, kInt8, kBf16, kTensor},
      {"f32", kF32, kF32, kF32, kTensor},          {"int8", kBf16, kInt8, kInt8, kTensor},
      {"fp8", kBf16, kFp8, kFp8, kTensor},         {"f32+bf16", kF32, kBf16, kBf16, kTensor},
      {"bf16 exact", kBf16, kBf16, kBf16, kExact}, {"f32 exact", kF32, kF32, kF32, kExact}};
  if (argc > 2 && std::strcmp(argv[2], "brief") == 0) {  // for a profiler
    BenchDecode(cases[0], 32, 2048, 0, copy, arena);
    BenchDecode(cases[3], 32, 2048, 0, copy, arena);
    BenchPrefill("documents", kTensor, kBf16, 64, 576, 576, false, hopper, arena);
    BenchPrefill("long", kTensor, kBf16, 4, 4096, 4096, false, hopper, arena);
    return 0;
  }
  for (const DecodeCase& c : cases) {
    for (const int batch : {1, 8, 32, 128}) BenchDecode(c, batch, 2048, 0, copy, arena);
  }
  for (const int split : {128, 512, 4096}) {
    for (const int batch : {1, 32}) BenchDecode(cases[0], batch, 2048, split, copy, arena);
    BenchDecode(cases[3], 32, 2048, split, copy, arena);
  }
  BenchDecode(cases[0], 1, 65536, 0, copy, arena);
  BenchDecode(cases[0], 4, 65536, 0, copy, arena);
  BenchPrefill("documents", kTensor, kBf16, 64, 576, 576, false, hopper, arena);
  BenchPrefill("documents f32", kTensor, kF32, 64, 576, 576, false, hopper, arena);
  BenchPrefill("long", kTensor, kBf16, 4, 4096, 4096, false, hopper, arena);
  BenchPrefill("question over memory", kTensor, kBf16, 1, 200, 200, true, hopper, arena);
  BenchPrefill("questions over memory", kTensor, kBf16, 32, 200, 200, true, hopper, arena);
  BenchPrefill("over a long context", kTensor, kBf16, 1, 64, 65536, true, hopper, arena);
  BenchPrefill("documents exact", kExact, kF32, 8, 576, 576, false, hopper, arena);
  BenchPrefill("long exact", kExact, kF32, 1, 4096, 4096, false, hopper, arena);
  return 0;
}

// Times of the routing pass at MSA-4B's shapes against the device's copy bandwidth, measured in the
// same run. One JSON line a measurement. Usage: routing_bench [seconds].
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/routing.h"
#include "kernels/cuda/topk.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kWidth = 1024;
constexpr int64_t kChunksOfPart = 9;
constexpr int64_t kMaxTokens = 100'000'000;
constexpr int kTokensOfChunk = 64;
constexpr int64_t kSegmentChunks = 16'384;

#define CUDA_OK(call)                                                                       \
  do {                                                                                      \
    const cudaError_t error_ = (call);                                                      \
    if (error_ != cudaSuccess) {                                                            \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      std::exit(1);                                                                         \
    }                                                                                       \
  } while (0)

__device__ uint32_t Hash(uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
  return static_cast<uint32_t>(x >> 32);
}

// Random finite keys: bf16 of -2 … 2, any int8, fp8 but not NaN.
__global__ void FillKeys(uint32_t* words, int64_t count, KeyFormat format) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
    uint32_t bits = Hash(i + 1);
    if (format == KeyFormat::kBFloat16) bits = (bits & 0x80FF80FFu) | 0x3F003F00u;
    if (format == KeyFormat::kFloat8) bits &= 0xF7F7F7F7u;
    if (format == KeyFormat::kFloat32) bits = (bits & 0x80FFFFFFu) | 0x3F000000u;
    words[i] = bits;
  }
}

__global__ void FillFloats(float* to, int64_t count) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < count; i += gridDim.x * 256ll) {
    to[i] = static_cast<float>(Hash(i + 7)) * (1.0f / 4294967296.0f) - 0.5f;
  }
}

template <typename T>
T* Allocate(int64_t count) {
  void* memory = nullptr;
  CUDA_OK(cudaMalloc(&memory, count * sizeof(T)));
  return static_cast<T*>(memory);
}

// Median, in microseconds, of `run(repetition)`.
struct Time {
  double median = 0;
  double low = 0;
  double high = 0;
};

Time Measure(int repetitions, const std::function<void(int)>& run) {
  for (int i = 0; i < 2; ++i) run(i);
  std::vector<cudaEvent_t> events(repetitions + 1);
  for (cudaEvent_t& event : events) CUDA_OK(cudaEventCreate(&event));
  CUDA_OK(cudaEventRecord(events[0]));
  for (int i = 0; i < repetitions; ++i) {
    run(i + 2);
    CUDA_OK(cudaEventRecord(events[i + 1]));
  }
  CUDA_OK(cudaDeviceSynchronize());
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, events[i], events[i + 1]));
    times.push_back(ms * 1e3);
  }
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

double CopyBandwidth(char* memory, int64_t bytes) {
  const Time time = Measure(9, [&](int) {
    CUDA_OK(cudaMemcpyAsync(memory + bytes / 2, memory, bytes / 2, cudaMemcpyDeviceToDevice));
  });
  return bytes / time.median * 1e-3;  // GB/s, bytes read and written
}

const char* FormatName(KeyFormat format) {
  constexpr const char* kNames[] = {"", "f32", "bf16", "int8", "fp8"};
  return kNames[static_cast<int>(format)];
}

// A bank of `tokens` at several places of the key memory, so that the cache holds none.
class Bank {
 public:
  Bank(char* keys, float* scales, KeyFormat format, int64_t tokens) : format_(format) {
    num_chunks_ = tokens / kTokensOfChunk;
    const int bytes = format == KeyFormat::kBFloat16 ? 2 : format == KeyFormat::kFloat32 ? 4 : 1;
    const int64_t segment_chunks = std::min(num_chunks_, kSegmentChunks);
    std::vector<int64_t> part_begin;
    for (int64_t i = 0; i < segment_chunks; i += kChunksOfPart) part_begin.push_back(i);
    const int64_t parts_of_segment = static_cast<int64_t>(part_begin.size());
    for (int64_t i = 0; i < kChunksOfPart; ++i) part_begin.push_back(segment_chunks);
    part_begin_ = Allocate<int64_t>(part_begin.size());
    CUDA_OK(cudaMemcpy(part_begin_, part_begin.data(), part_begin.size() * sizeof(int64_t),
                       cudaMemcpyHostToDevice));
    const int64_t all = kMaxTokens / kTokensOfChunk;
    const int64_t places = std::clamp<int64_t>(all / num_chunks_, 1, 20);
    for (int64_t place = 0; place < places; ++place) {
      std::vector<RoutingSegment> segments;
      num_parts_ = 0;
      for (int64_t at = 0; at < num_chunks_; at += segment_chunks) {
        RoutingSegment segment;
        segment.keys = keys + (place * num_chunks_ + at) * kWidth * bytes;
        segment.scales = bytes == 1 ? scales : nullptr;
        segment.part_begin = part_begin_;
        segment.num_chunks = std::min(segment_chunks, num_chunks_ - at);
        segment.num_parts = (segment.num_chunks + kChunksOfPart - 1) / kChunksOfPart;
        segment.first_part = num_parts_;
        num_parts_ += std::min(segment.num_parts, parts_of_segment);
        segments.push_back(segment);
      }
      NumberChunks(segments.data(), static_cast<int>(segments.size()));
      num_segments_ = static_cast<int>(segments.size());
      tables_.push_back(Allocate<RoutingSegment>(num_segments_));
      CUDA_OK(cudaMemcpy(tables_.back(), segments.data(), num_segments_ * sizeof(RoutingSegment),
                         cudaMemcpyHostToDevice));
    }
  }

  ~Bank() {
    cudaFree(part_begin_);
    for (RoutingSegment* table : tables_) cudaFree(table);
  }

  int64_t num_parts() const { return num_parts_; }

  RoutingArgs Args(int place) const {
    RoutingArgs args;
    args.shape.num_q_heads = 32;
    args.shape.num_kv_heads = 8;
    args.shape.head_dim = 128;
    args.format = format_;
    args.segments = tables_[place % tables_.size()];
    args.num_segments = num_segments_;
    args.num_chunks = num_chunks_;
    args.num_parts = num_parts_;
    return args;
  }

 private:
  KeyFormat format_;
  int64_t num_chunks_ = 0;
  int64_t num_parts_ = 0;
  int num_segments_ = 0;
  int64_t* part_begin_ = nullptr;
  std::vector<RoutingSegment*> tables_;
};

void BenchFormat(KeyFormat format, char* keys, double copy_gbps) {
  const int bytes = format == KeyFormat::kBFloat16 ? 2 : format == KeyFormat::kFloat32 ? 4 : 1;
  const int64_t all_bytes = kMaxTokens / kTokensOfChunk * kWidth * bytes;
  FillKeys<<<2048, 256>>>(reinterpret_cast<uint32_t*>(keys), all_bytes / 4, format);
  float* scales = Allocate<float>(kSegmentChunks);
  FillFloats<<<64, 256>>>(scales, kSegmentChunks);
  float* queries = Allocate<float>(512 * kWidth);
  FillFloats<<<64, 256>>>(queries, 512 * kWidth);
  void* workspace = Allocate<char>(RoutingWorkspaceBytes(kWidth));
  float* scores = Allocate<float>(32 * (kMaxTokens / kTokensOfChunk / kChunksOfPart + 1000));
  CUDA_OK(cudaDeviceSynchronize());
  for (const int64_t tokens : {int64_t{1'000'000}, int64_t{10'000'000}, kMaxTokens}) {
    const Bank bank(keys, scales, format, tokens);
    for (const QueryPrecision precision : {QueryPrecision::kSplit, QueryPrecision::kSingle}) {
      if (format == KeyFormat::kFloat32 && precision == QueryPrecision::kSingle) continue;
      for (const auto& [rows, questions] :
           std::vector<std::pair<int, int>>{{1, 1}, {8, 1}, {32, 1}, {32, 4}, {64, 1}}) {
        std::vector<int32_t> query_begin;
        for (int q = 0; q <= questions; ++q) query_begin.push_back(q * (rows / questions));
        const auto run = [&](int i) {
          RoutingArgs args = bank.Args(i);
          args.precision = precision;
          args.queries = queries;
          args.host_query_begin = query_begin.data();
          args.num_questions = questions;
          args.scores = scores;
          CUDA_OK(ScoreParts(args, workspace, nullptr));
        };
        const Time time = Measure(tokens == kMaxTokens ? 9 : 25, run);
        const double key_bytes = static_cast<double>(tokens / kTokensOfChunk) * kWidth * bytes;
        const double gbps = key_bytes / time.median * 1e-3;
        std::printf(
            "{\"what\":\"routing\",\"format\":\"%s\",\"precision\":\"%s\",\"tokens\":%lldM,"
            "\"rows\":%d,\"questions\":%d,\"us\":%.1f,\"min_us\":%.1f,\"max_us\":%.1f,"
            "\"gbps\":%.0f,\"of_copy\":%.3f}\n",
            FormatName(format), precision == QueryPrecision::kSplit ? "split" : "single",
            static_cast<long long>(tokens / 1'000'000), rows, questions, time.median, time.low,
            time.high, gbps, gbps / copy_gbps);
      }
    }
  }
  for (void* memory : {static_cast<void*>(scales), static_cast<void*>(queries), workspace,
                       static_cast<void*>(scores)}) {
    cudaFree(memory);
  }
}

void BenchTopK() {
  for (const int64_t n : {int64_t{2000}, int64_t{20'000}, int64_t{200'000}, int64_t{1'600'000}}) {
    for (const int questions : {1, 8}) {
      for (const int k : {16, 1024}) {
        TopKArgs args;
        float* scores = Allocate<float>(n * questions);
        FillFloats<<<512, 256>>>(scores, n * questions);
        args.scores = scores;
        args.num_questions = questions;
        args.num_candidates = n;
        args.stride = n;
        args.k = k;
        args.best_scores = Allocate<float>(questions * k);
        args.best_references = Allocate<int64_t>(questions * k);
        void* workspace = Allocate<char>(TopKWorkspaceBytes(questions, n, k));
        const Time time = Measure(25, [&](int) { CUDA_OK(SelectTopK(args, workspace, nullptr)); });
        std::printf(
            "{\"what\":\"top_k\",\"n\":%lld,\"questions\":%d,\"k\":%d,\"us\":%.1f,"
            "\"min_us\":%.1f}\n",
            static_cast<long long>(n), questions, k, time.median, time.low);
        for (void* memory : {static_cast<void*>(scores), static_cast<void*>(args.best_scores),
                             static_cast<void*>(args.best_references), workspace}) {
          cudaFree(memory);
        }
      }
    }
  }
}

int Run(int argc, char** argv) {
  cudaDeviceProp device;
  CUDA_OK(cudaGetDeviceProperties(&device, 0));
  char* keys = Allocate<char>(kMaxTokens / kTokensOfChunk * kWidth * 4);
  CUDA_OK(cudaMemset(keys, 1, kMaxTokens / kTokensOfChunk * kWidth * 4));
  const double copy_gbps = CopyBandwidth(keys, kMaxTokens / kTokensOfChunk * kWidth * 4);
  std::printf("{\"what\":\"copy\",\"device\":\"%s\",\"gbps\":%.0f}\n", device.name, copy_gbps);
  for (const KeyFormat format :
       {KeyFormat::kBFloat16, KeyFormat::kInt8, KeyFormat::kFloat8, KeyFormat::kFloat32}) {
    if (argc > 1 && std::string(argv[1]).find(FormatName(format)) == std::string::npos) continue;
    BenchFormat(format, keys, copy_gbps);
  }
  if (argc <= 1) BenchTopK();
  return 0;
}

}  // namespace
}  // namespace msa::kernels::cuda

int main(int argc, char** argv) { return msa::kernels::cuda::Run(argc, argv); }

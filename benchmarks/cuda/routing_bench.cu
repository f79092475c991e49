// Times of the routing pass at MSA-4B's shapes against the device's copy bandwidth and matrix rate,
// measured in the same run, and of what a library's products make of the same question. One JSON
// line a measurement. Usage: routing_bench [formats, as bf16,int8,fp8,f32 | wide].
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "benchmarks/cuda/device_bench.cuh"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/topk.h"

namespace msa::kernels::cuda {
namespace {

using benchmarks::Allocate;
using benchmarks::CopyBandwidth;
using benchmarks::FillFloats;
using benchmarks::Hash;
using benchmarks::Measure;
using benchmarks::Time;

constexpr int kWidth = 1024;
constexpr int64_t kChunksOfPart = 9;
constexpr int64_t kMaxTokens = 100'000'000;
constexpr int kTokensOfChunk = 64;
constexpr int64_t kSegmentChunks = 16'384;
constexpr int64_t kWorkspaceBytes = 64 << 20;

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
  void* workspace = Allocate<char>(kWorkspaceBytes);
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
            "{\"what\":\"routing\",\"format\":\"%s\",\"precision\":\"%s\",\"tokens\":\"%lldM\","
            "\"rows\":%d,\"questions\":%d,\"us\":%.1f,\"min_us\":%.1f,\"max_us\":%.1f,"
            "\"queued_us\":%.1f,\"gbps\":%.0f,\"of_copy\":%.3f,\"queued_of_copy\":%.3f}\n",
            FormatName(format), precision == QueryPrecision::kSplit ? "split" : "single",
            static_cast<long long>(tokens / 1'000'000), rows, questions, time.median, time.low,
            time.high, time.queued, gbps, gbps / copy_gbps,
            gbps / copy_gbps * time.median / time.queued);
      }
    }
  }
  for (void* memory : {static_cast<void*>(scales), static_cast<void*>(queries), workspace,
                       static_cast<void*>(scores)}) {
    cudaFree(memory);
  }
}

// ---- Peers: what a library's matrix product and simple kernels make of the same question

#define CUBLAS_OK(call)                                                  \
  do {                                                                   \
    const cublasStatus_t status_ = (call);                               \
    if (status_ != CUBLAS_STATUS_SUCCESS) {                              \
      std::printf("%s:%d %s: %d\n", __FILE__, __LINE__, #call, status_); \
      std::exit(1);                                                      \
    }                                                                    \
  } while (0)

double MatrixRate(cublasHandle_t handle, char* memory) {
  constexpr int kSize = 8192;
  constexpr int64_t kBytes = int64_t{2} * kSize * kSize;
  FillKeys<<<2048, 256>>>(reinterpret_cast<uint32_t*>(memory), kBytes / 2, KeyFormat::kBFloat16);
  const float one = 1;
  const float zero = 0;
  const Time time = Measure(9, [&](int) {
    CUBLAS_OK(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, kSize, kSize, kSize, &one, memory,
                           CUDA_R_16BF, kSize, memory + kBytes, CUDA_R_16BF, kSize, &zero,
                           memory + 2 * kBytes, CUDA_R_16BF, kSize, CUBLAS_COMPUTE_32F,
                           CUBLAS_GEMM_DEFAULT));
  });
  return 2.0 * kSize * kSize * kSize / time.median * 1e-6;  // TFLOP/s
}

// best[c] = max over rows of mean over heads of scores[head, row, c].
template <typename T>
__global__ void MaxOfMeans(const T* scores, int heads, int rows, int64_t chunks, float* best) {
  const int64_t c = blockIdx.x * 256ll + threadIdx.x;
  if (c >= chunks) return;
  float largest = kNoScore;
  for (int row = 0; row < rows; ++row) {
    float sum = 0;
    for (int head = 0; head < heads; ++head) {
      sum += static_cast<float>(scores[(static_cast<int64_t>(head) * rows + row) * chunks + c]);
    }
    largest = fmaxf(largest, sum / heads);
  }
  best[c] = largest;
}

__global__ void MaxOfParts(const float* best, int64_t chunks, float* parts) {
  const int64_t part = blockIdx.x * 256ll + threadIdx.x;
  if (part * kChunksOfPart >= chunks) return;
  float largest = kNoScore;
  for (int64_t c = part * kChunksOfPart; c < min((part + 1) * kChunksOfPart, chunks); ++c) {
    largest = fmaxf(largest, best[c]);
  }
  parts[part] = largest;
}

// bf16 keys, 32 rows. `published`: scores of every query head, as the published engine makes them;
// else the folded product.
void BenchPeer(cublasHandle_t handle, char* keys, char* memory, bool published) {
  constexpr int kRows = 32;
  constexpr int kKvHeads = 8;
  constexpr int kGroup = 4;
  constexpr int kHeadDim = 128;
  const int64_t chunks = kMaxTokens / kTokensOfChunk;
  const int64_t parts = (chunks + kChunksOfPart - 1) / kChunksOfPart;
  char* queries = memory;
  float* best = reinterpret_cast<float*>(memory + (1 << 20));
  float* part_scores = best + chunks;
  char* scores = reinterpret_cast<char*>(part_scores + chunks);
  scores += 256 - reinterpret_cast<uintptr_t>(scores) % 256;
  FillKeys<<<64, 256>>>(reinterpret_cast<uint32_t*>(queries), 1 << 18, KeyFormat::kBFloat16);
  TopKArgs top_k;
  top_k.scores = part_scores;
  top_k.num_questions = 1;
  top_k.num_candidates = parts;
  top_k.stride = parts;
  top_k.k = 16;
  top_k.best_scores = Allocate<float>(16);
  top_k.best_references = Allocate<int64_t>(16);
  void* workspace = Allocate<char>(TopKWorkspaceBytes(1, parts, 16));
  const float one = 1;
  const float zero = 0;
  const unsigned blocks = static_cast<unsigned>((chunks + 255) / 256);
  const Time time = Measure(9, [&](int) {
    if (published) {
      CUBLAS_OK(cublasGemmStridedBatchedEx(
          handle, CUBLAS_OP_T, CUBLAS_OP_N, chunks, kGroup * kRows, kHeadDim, &one, keys,
          CUDA_R_16BF, kWidth, kHeadDim, queries, CUDA_R_16BF, kHeadDim,
          int64_t{kGroup} * kRows * kHeadDim, &zero, scores, CUDA_R_16BF, chunks,
          chunks * kGroup * kRows, kKvHeads, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
      MaxOfMeans<<<blocks, 256>>>(reinterpret_cast<const __nv_bfloat16*>(scores), kKvHeads * kGroup,
                                  kRows, chunks, best);
    } else {
      CUBLAS_OK(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, chunks, kRows, kWidth, &one, keys,
                             CUDA_R_16BF, kWidth, queries, CUDA_R_16BF, kWidth, &zero, scores,
                             CUDA_R_32F, chunks, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
      MaxOfMeans<<<blocks, 256>>>(reinterpret_cast<const float*>(scores), 1, kRows, chunks, best);
    }
    MaxOfParts<<<blocks, 256>>>(best, chunks, part_scores);
    CUDA_OK(SelectTopK(top_k, workspace, nullptr));
  });
  CUDA_OK(cudaGetLastError());
  std::printf(
      "{\"what\":\"%s\",\"format\":\"bf16\",\"tokens\":\"100M\",\"rows\":32,\"us\":%.1f,"
      "\"min_us\":%.1f}\n",
      published ? "peer: scores of every head, materialised" : "peer: folded product", time.median,
      time.low);
  for (void* to_free : {static_cast<void*>(top_k.best_scores),
                        static_cast<void*>(top_k.best_references), workspace}) {
    cudaFree(to_free);
  }
}

// Tens to thousands of rows: up to 256 one question, more in questions of 32.
void BenchThroughput(KeyFormat format, char* keys, double matrix_tflops) {
  const int bytes = format == KeyFormat::kBFloat16 ? 2 : 1;
  const int64_t all_bytes = kMaxTokens / kTokensOfChunk * kWidth * bytes;
  FillKeys<<<2048, 256>>>(reinterpret_cast<uint32_t*>(keys), all_bytes / 4, format);
  constexpr int kMaxRows = 4096;
  float* queries = Allocate<float>(kMaxRows * kWidth);
  FillFloats<<<64, 256>>>(queries, kMaxRows * kWidth);
  void* workspace = Allocate<char>(kWorkspaceBytes);
  float* scores =
      Allocate<float>(kMaxRows / 32 * (kMaxTokens / kTokensOfChunk / kChunksOfPart + 1000));
  for (const int64_t tokens : {int64_t{10'000'000}, kMaxTokens}) {
    const Bank bank(keys, nullptr, format, tokens);
    for (const int rows : {40, 64, 96, 128, 160, 170, 192, 256, 512, 1024, 4096}) {
      const int of_question = rows <= 256 ? rows : 32;
      std::vector<int32_t> query_begin;
      for (int q = 0; q <= rows / of_question; ++q) query_begin.push_back(q * of_question);
      const Time time = Measure(tokens == kMaxTokens ? 5 : 9, [&](int i) {
        RoutingArgs args = bank.Args(i);
        args.precision = QueryPrecision::kThroughput;
        args.queries = queries;
        args.host_query_begin = query_begin.data();
        args.num_questions = rows / of_question;
        args.scores = scores;
        if (RoutingWorkspaceBytes(args) > kWorkspaceBytes) std::exit(1);
        CUDA_OK(ScoreParts(args, workspace, nullptr));
      });
      const double tflops =
          2.0 * static_cast<double>(tokens / kTokensOfChunk) * kWidth * rows / time.median * 1e-6;
      std::printf(
          "{\"what\":\"throughput\",\"format\":\"%s\",\"tokens\":\"%lldM\",\"rows\":%d,"
          "\"us\":%.1f,\"min_us\":%.1f,\"tflops\":%.0f,\"of_bf16_rate\":%.3f}\n",
          FormatName(format), static_cast<long long>(tokens / 1'000'000), rows, time.median,
          time.low, tflops, tflops / matrix_tflops);
    }
  }
  for (void* memory : {static_cast<void*>(queries), workspace, static_cast<void*>(scores)}) {
    cudaFree(memory);
  }
}

void BenchPeersAndThroughput(char* keys, bool peers) {
  cublasHandle_t handle;
  CUBLAS_OK(cublasCreate(&handle));
  const int64_t key_bytes = kMaxTokens / kTokensOfChunk * kWidth * 2;
  char* memory = Allocate<char>(key_bytes + (int64_t{1} << 28));
  const double rate = MatrixRate(handle, memory);
  std::printf("{\"what\":\"bf16 matrix rate\",\"tflops\":%.0f}\n", rate);
  FillKeys<<<2048, 256>>>(reinterpret_cast<uint32_t*>(keys), key_bytes / 4, KeyFormat::kBFloat16);
  if (peers) BenchPeer(handle, keys, memory, false);
  if (peers) BenchPeer(handle, keys, memory, true);
  cudaFree(memory);
  cublasDestroy(handle);
  for (const KeyFormat format : {KeyFormat::kBFloat16, KeyFormat::kInt8, KeyFormat::kFloat8}) {
    BenchThroughput(format, keys, rate);
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
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
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
  const bool wide = argc > 1 && std::string(argv[1]) == "wide";
  if (argc <= 1) BenchTopK();
  if (argc <= 1 || wide) BenchPeersAndThroughput(keys, !wide);
  return 0;
}

}  // namespace
}  // namespace msa::kernels::cuda

int main(int argc, char** argv) { return msa::kernels::cuda::Run(argc, argv); }

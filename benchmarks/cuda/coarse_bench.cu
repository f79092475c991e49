// Coarse codes before the exact scan, at MSA-4B's shapes and 100 M tokens: speed against agreement
// with the full scan's top 16, by number of candidates. Keys are made up on the device: unit
// vectors a head, chunks around documents around topics; questions lie near a document. Real keys
// vary: measure on the bank's own. One JSON line a measurement. Usage: coarse_bench [million
// tokens].
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <vector>

#include "benchmarks/cuda/device_bench.cuh"
#include "kernels/cuda/coarse.h"

namespace msa::kernels::cuda {
namespace {

using benchmarks::Allocate;
using benchmarks::CopyBandwidth;
using benchmarks::Hash;
using benchmarks::Measure;
using benchmarks::Time;

constexpr int kHeads = 8;
constexpr int kHeadDim = 128;
constexpr int kWidth = kHeads * kHeadDim;
constexpr int kRows = 32;  // of a question
constexpr int kQuestions = 64;
constexpr int kBatches = 8;
constexpr int kTopics = 2000;
constexpr int kTopK = 16;
constexpr int64_t kChunksOfPart = 9;
constexpr int64_t kSegmentChunks = 16'380;  // whole parts
constexpr int kTokensOfChunk = 64;

// About normal, of the identity's own stream.
__device__ float Normal(uint64_t identity, int i) {
  const uint64_t seed = identity * kWidth + i;
  float sum = -2.0f;
  for (uint64_t k = 0; k < 4; ++k) {
    sum += static_cast<float>(Hash(seed * 4 + k + 99)) * (1.0f / 4294967296.0f);
  }
  return sum * 1.7320508f;
}

__device__ uint64_t TopicOf(int64_t document) { return Hash(document + 12345) % kTopics; }
constexpr uint64_t kDocuments = uint64_t{1} << 32;
constexpr uint64_t kChunks = uint64_t{1} << 40;
constexpr uint64_t kQuestionRows = uint64_t{1} << 44;

// x / its norm over the 128 threads of the block (one head).
__device__ float Normalised(float x) {
  __shared__ float of_warp[kHeadDim / 32];
  float square = x * x;
  for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(~0u, square, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = square;
  __syncthreads();
  return x * rsqrtf(of_warp[0] + of_warp[1] + of_warp[2] + of_warp[3]);
}

__global__ void MakeKeys(__nv_bfloat16* keys, int64_t chunks) {
  for (int64_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    const int64_t document = c / kChunksOfPart;
    for (int head = 0; head < kHeads; ++head) {
      const int i = head * kHeadDim + threadIdx.x;
      const float x = 0.6f * Normal(TopicOf(document), i) +
                      0.6f * Normal(kDocuments + document, i) + 0.7f * Normal(kChunks + c, i);
      keys[c * kWidth + i] = __float2bfloat16_rn(Normalised(x));
    }
  }
}

__global__ void MakeQuestions(float* queries, int64_t documents, int first_question) {
  const int64_t row = blockIdx.x;
  const uint64_t question = first_question + row / kRows;
  const int64_t document = Hash(question + 777) % documents;
  for (int head = 0; head < kHeads; ++head) {
    const int i = head * kHeadDim + threadIdx.x;
    const float x = 0.4f * Normal(TopicOf(document), i) + 0.4f * Normal(kDocuments + document, i) +
                    0.8f * Normal(kQuestionRows + question * kRows + row % kRows, i);
    queries[row * kWidth + i] = Normalised(x) / kHeads;
  }
}

// One warp a chunk: scale = max |x| / 127.
__global__ void MakeInt8(const __nv_bfloat16* keys, int64_t chunks, int8_t* to, float* scales) {
  const int lane = threadIdx.x % 32;
  for (int64_t c = blockIdx.x * 8ll + threadIdx.x / 32; c < chunks; c += gridDim.x * 8ll) {
    float largest = 0;
    for (int i = lane; i < kWidth; i += 32) {
      largest = fmaxf(largest, fabsf(__bfloat162float(keys[c * kWidth + i])));
    }
    for (int step = 16; step > 0; step /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    }
    if (lane == 0) scales[c] = largest / 127;
    for (int i = lane; i < kWidth; i += 32) {
      to[c * kWidth + i] = static_cast<int8_t>(
          __float2int_rn(__bfloat162float(keys[c * kWidth + i]) * 127 / largest));
    }
  }
}

struct Bank {
  RoutingSegment* table = nullptr;
  int num_segments = 0;
  int64_t num_chunks = 0;
  int64_t num_parts = 0;
};

Bank MakeBank(const void* keys, int row_bytes, const float* scales, int64_t chunks) {
  std::vector<int64_t> part_begin;
  for (int64_t i = 0; i <= kSegmentChunks; i += kChunksOfPart) part_begin.push_back(i);
  int64_t* begins = Allocate<int64_t>(part_begin.size());
  CUDA_OK(cudaMemcpy(begins, part_begin.data(), part_begin.size() * sizeof(int64_t),
                     cudaMemcpyHostToDevice));
  Bank bank;
  std::vector<RoutingSegment> segments;
  for (int64_t at = 0; at < chunks; at += kSegmentChunks) {
    RoutingSegment segment;
    segment.keys = static_cast<const char*>(keys) + at * row_bytes;
    segment.scales = scales == nullptr ? nullptr : scales + at;
    segment.part_begin = begins;
    segment.num_chunks = std::min(kSegmentChunks, chunks - at);
    segment.num_parts = segment.num_chunks / kChunksOfPart;
    segment.first_part = bank.num_parts;
    bank.num_parts += segment.num_parts;
    segments.push_back(segment);
  }
  bank.num_segments = static_cast<int>(segments.size());
  bank.num_chunks = NumberChunks(segments.data(), bank.num_segments);
  bank.table = Allocate<RoutingSegment>(bank.num_segments);
  CUDA_OK(cudaMemcpy(bank.table, segments.data(), segments.size() * sizeof(RoutingSegment),
                     cudaMemcpyHostToDevice));
  return bank;
}

// Everything a question needs, on the device.
struct Memory {
  float* queries = nullptr;
  float* scores = nullptr;
  float* best_scores = nullptr;
  int64_t* best_references = nullptr;
  char* workspace = nullptr;
  static constexpr int64_t kWorkspaceBytes = int64_t{1} << 30;
};

CoarseArgs Args(const Bank& bank, const Bank& codes, KeyFormat format, const Memory& memory,
                const std::vector<int32_t>& query_begin, int candidates) {
  CoarseArgs args;
  RoutingArgs& scan = args.scan;
  scan.shape.num_q_heads = 32;
  scan.shape.num_kv_heads = kHeads;
  scan.shape.head_dim = kHeadDim;
  scan.format = format;
  scan.segments = bank.table;
  scan.num_segments = bank.num_segments;
  scan.num_chunks = bank.num_chunks;
  scan.num_parts = bank.num_parts;
  scan.queries = memory.queries;
  scan.host_query_begin = query_begin.data();
  scan.num_questions = static_cast<int>(query_begin.size()) - 1;
  scan.scores = memory.scores;
  args.codes = codes.table;
  args.num_candidates = candidates;
  args.k = kTopK;
  args.best_scores = memory.best_scores;
  args.best_references = memory.best_references;
  return args;
}

void FullScan(const CoarseArgs& args, const Memory& memory) {
  CUDA_OK(ScoreParts(args.scan, memory.workspace, nullptr));
  TopKArgs best;
  best.scores = args.scan.scores;
  best.num_questions = args.scan.num_questions;
  best.num_candidates = args.scan.num_parts;
  best.stride = args.scan.num_parts;
  best.k = args.k;
  best.best_scores = args.best_scores;
  best.best_references = args.best_references;
  CUDA_OK(SelectTopK(best, memory.workspace, nullptr));
}

void CoarseScan(const CoarseArgs& args, const Memory& memory) {
  if (CoarseWorkspaceBytes(args) > Memory::kWorkspaceBytes) std::exit(1);
  CUDA_OK(SelectTopKCoarse(args, memory.workspace, nullptr));
}

std::vector<int32_t> QueryBegin(int questions, int rows) {
  std::vector<int32_t> begin;
  for (int q = 0; q <= questions; ++q) begin.push_back(q * rows);
  return begin;
}

void BenchTimes(const Bank& bank, const Bank& codes, KeyFormat format, const Memory& memory,
                const char* name) {
  for (const int rows : {1, 8, 32}) {
    const std::vector<int32_t> begin = QueryBegin(1, rows);
    const CoarseArgs scan = Args(bank, codes, format, memory, begin, kTopK);
    const Time full = Measure(15, [&](int) { FullScan(scan, memory); });
    for (const int candidates : {32, 64, 128, 256, 512, 1024}) {
      const CoarseArgs args = Args(bank, codes, format, memory, begin, candidates);
      const Time coarse = Measure(15, [&](int) { CoarseScan(args, memory); });
      std::printf(
          "{\"what\":\"coarse time\",\"format\":\"%s\",\"rows\":%d,\"candidates\":%d,"
          "\"full_us\":%.1f,\"coarse_us\":%.1f,\"speedup\":%.2f}\n",
          name, rows, candidates, full.queued, coarse.queued, full.queued / coarse.queued);
    }
  }
}

void BenchAgreement(const Bank& bank, const Bank& codes, KeyFormat format, const Memory& memory,
                    const char* name) {
  constexpr int kCandidates[] = {16, 24, 32, 64, 128, 256, 512, 1024};
  constexpr int kNumCandidates = sizeof(kCandidates) / sizeof(int);
  int same[kNumCandidates] = {};
  int64_t found[kNumCandidates] = {};
  const std::vector<int32_t> begin = QueryBegin(kQuestions, kRows);
  std::vector<int64_t> want(kQuestions * kTopK);
  std::vector<int64_t> got(kQuestions * kTopK);
  const auto fetch = [&](std::vector<int64_t>& to) {
    CUDA_OK(cudaMemcpy(to.data(), memory.best_references, to.size() * sizeof(int64_t),
                       cudaMemcpyDeviceToHost));
  };
  for (int batch = 0; batch < kBatches; ++batch) {
    MakeQuestions<<<kQuestions * kRows, kHeadDim>>>(memory.queries, bank.num_parts,
                                                    batch * kQuestions);
    FullScan(Args(bank, codes, format, memory, begin, kTopK), memory);
    fetch(want);
    for (int i = 0; i < kNumCandidates; ++i) {
      CoarseScan(Args(bank, codes, format, memory, begin, kCandidates[i]), memory);
      fetch(got);
      for (int q = 0; q < kQuestions; ++q) {
        const auto first = got.begin() + q * kTopK;
        same[i] += std::equal(first, first + kTopK, want.begin() + q * kTopK);
        for (int j = 0; j < kTopK; ++j) {
          found[i] += std::count(first, first + kTopK, want[q * kTopK + j]);
        }
      }
    }
  }
  for (int i = 0; i < kNumCandidates; ++i) {
    std::printf(
        "{\"what\":\"coarse agreement\",\"format\":\"%s\",\"candidates\":%d,"
        "\"questions\":%d,\"same_top16\":%.4f,\"recall16\":%.5f}\n",
        name, kCandidates[i], kBatches * kQuestions,
        static_cast<double>(same[i]) / (kBatches * kQuestions),
        static_cast<double>(found[i]) / (kBatches * kQuestions * kTopK));
  }
}

int Run(int64_t tokens) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const int64_t chunks = tokens / kTokensOfChunk / kChunksOfPart * kChunksOfPart;
  auto* keys = Allocate<__nv_bfloat16>(chunks * kWidth);
  auto* int8_keys = Allocate<int8_t>(chunks * kWidth);
  auto* codes = Allocate<uint8_t>(chunks * kWidth / 2);
  float* code_scales = Allocate<float>(chunks);
  float* int8_scales = Allocate<float>(chunks);
  MakeKeys<<<4096, kHeadDim>>>(keys, chunks);
  CUDA_OK(cudaDeviceSynchronize());
  const Time encode = Measure(3, [&](int) {
    CUDA_OK(EncodeCoarse(keys, KeyFormat::kBFloat16, nullptr, chunks, kWidth, codes, code_scales,
                         nullptr));
  });
  MakeInt8<<<4096, 256>>>(keys, chunks, int8_keys, int8_scales);
  CUDA_OK(cudaDeviceSynchronize());
  std::printf("{\"what\":\"coarse encode\",\"chunks\":%lld,\"us\":%.0f}\n",
              static_cast<long long>(chunks), encode.median);
  const Bank bank = MakeBank(keys, kWidth * 2, nullptr, chunks);
  const Bank int8_bank = MakeBank(int8_keys, kWidth, int8_scales, chunks);
  const Bank code_bank = MakeBank(codes, kWidth / 2, code_scales, chunks);
  Memory memory;
  memory.queries = Allocate<float>(kQuestions * kRows * kWidth);
  memory.scores = Allocate<float>(kQuestions * bank.num_parts);
  memory.best_scores = Allocate<float>(kQuestions * kTopK);
  memory.best_references = Allocate<int64_t>(kQuestions * kTopK);
  memory.workspace = Allocate<char>(Memory::kWorkspaceBytes);
  MakeQuestions<<<kQuestions * kRows, kHeadDim>>>(memory.queries, bank.num_parts, 0);
  BenchTimes(bank, code_bank, KeyFormat::kBFloat16, memory, "bf16");
  BenchTimes(int8_bank, code_bank, KeyFormat::kInt8, memory, "int8");
  BenchAgreement(bank, code_bank, KeyFormat::kBFloat16, memory, "bf16");
  BenchAgreement(int8_bank, code_bank, KeyFormat::kInt8, memory, "int8");
  return 0;
}

}  // namespace
}  // namespace msa::kernels::cuda

int main(int argc, char** argv) {
  return msa::kernels::cuda::Run((argc > 1 ? std::atoll(argv[1]) : 100) * 1'000'000);
}

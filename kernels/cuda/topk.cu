// A block selects the best k of a list by radix: digit by digit from the highest bit in which
// scores differ it finds the value of the k-th, first in the scores, then (only among equals) in
// the references; collects what is not worse; and at the end sorts that by a bitonic network in
// shared memory. One block a slice of the candidates, then one block a question over what the
// slices gave.
#include <algorithm>

#include "common/routing.h"
#include "kernels/cuda/async.cuh"
#include "kernels/cuda/dependent_launch.h"
#include "kernels/cuda/topk.h"

namespace msa::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBins = 256;
constexpr int kReferenceDigits = 8;
constexpr int64_t kMinSlice = 4096;
constexpr int64_t kMaxSlices = 512;

// Candidates are compared by (score, reference) as unsigned numbers, greater is better.
struct Order {
  uint32_t score;
  uint64_t reference;
};

// -0 counts as 0.
__device__ uint32_t ScoreOrder(float score) {
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ uint64_t ReferenceOrder(int64_t reference) {
  return ~(static_cast<uint64_t>(reference) ^ 0x8000000000000000u);
}

// A list in memory. Without references a candidate's is its index; likewise without indices.
struct Candidates {
  const float* scores = nullptr;
  const int64_t* references = nullptr;
  const uint8_t* visible = nullptr;
  const int32_t* indices = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
  const uint32_t* cached = nullptr;  // [end - begin] of KeyOf

  // The order of a candidate's score, 0 if it is not to be taken.
  __device__ uint32_t KeyOf(int64_t i) const {
    const bool taken = scores[i] > kNoScore && (visible == nullptr || visible[i] != 0);
    return taken ? ScoreOrder(scores[i]) : 0;  // NaN is not
  }
  __device__ uint32_t Key(int64_t i) const {
    return cached == nullptr ? KeyOf(i) : cached[i - begin];
  }
  __device__ int64_t Reference(int64_t i) const {
    return references == nullptr ? i : references[i];
  }
  __device__ int32_t Index(int64_t i) const {
    return indices == nullptr ? static_cast<int32_t>(i) : indices[i];
  }
};

struct Selected {
  float* scores = nullptr;
  int64_t* references = nullptr;
  int32_t* indices = nullptr;
  int32_t* count = nullptr;
};

// Of a list, in dynamic shared memory; a longer one's are taken from its scores each time.
constexpr int64_t kCachedKeys = 12 * 1024;
// Up to here the static and the dynamic shared memory are what any block may have.
constexpr int64_t kAlwaysCached = 4096;

struct SelectShared {
  uint32_t histogram[kBins];
  uint32_t suffix[kBins];  // candidates in this bin and those above
  uint32_t largest_key;
  uint32_t least_key;  // of those to be taken
  int bin;
  int count;
  Order order[kMaxTopK];
  float score[kMaxTopK];
  int32_t index[kMaxTopK];
};

// How an order is cut into digits of up to 8 bits: its score's bits below those that all scores
// have in common, then its reference's.
struct Digits {
  int score_bits = 32;  // that scores differ in

  __device__ int of_score() const { return (score_bits + 7) / 8; }
  __device__ int all() const { return of_score() + kReferenceDigits; }
  // Bits of the score below its first `count` digits.
  __device__ int BitsBelow(int count) const { return max(score_bits - 8 * count, 0); }

  __device__ uint32_t At(const Order& order, int digit) const {
    if (digit >= of_score()) return order.reference >> (56 - 8 * (digit - of_score())) & 0xff;
    const int below = BitsBelow(digit + 1);
    return order.score >> below & ((1u << (BitsBelow(digit) - below)) - 1);
  }

  // The digits of `order` from the first to `count` and what is above them, the others zero.
  __device__ Order Prefix(const Order& order, int count) const {
    const int below = BitsBelow(count);
    Order prefix = {below < 32 ? order.score >> below << below : 0, 0};
    if (count >= all()) {
      prefix.reference = order.reference;
    } else if (count > of_score()) {
      prefix.reference = order.reference & ~uint64_t{0} << (64 - 8 * (count - of_score()));
    }
    return prefix;
  }
};

__device__ bool Less(const Order& a, const Order& b) {
  return a.score != b.score ? a.score < b.score : a.reference < b.reference;
}

// The bits in which the scores of those to be taken differ, and those above.
__device__ Digits FindDigits(const Candidates& from, Order& common, SelectShared& shared) {
  if (threadIdx.x == 0) {
    shared.largest_key = 0;
    shared.least_key = ~0u;
  }
  __syncthreads();
  uint32_t largest = 0;
  uint32_t least = ~0u;
  for (int64_t i = from.begin + threadIdx.x; i < from.end; i += kThreads) {
    const uint32_t key = from.Key(i);
    if (key == 0) continue;
    largest = max(largest, key);
    least = min(least, key);
  }
  largest = __reduce_max_sync(~0u, largest);
  least = __reduce_min_sync(~0u, least);
  if (threadIdx.x % 32 == 0) {
    atomicMax(&shared.largest_key, largest);
    atomicMin(&shared.least_key, least);
  }
  __syncthreads();
  largest = shared.largest_key;
  Digits digits = {32};
  if (largest > 0) digits.score_bits = 32 - __clz(largest ^ shared.least_key);
  common = digits.Prefix({largest, 0}, 0);
  return digits;
}

__device__ void CountDigits(const Candidates& from, const Digits& digits, const Order& threshold,
                            int digit, SelectShared& shared) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) shared.histogram[i] = 0;
  __syncthreads();
  for (int64_t i = from.begin + threadIdx.x; i < from.end; i += kThreads) {
    const uint32_t key = from.Key(i);
    if (key == 0) continue;
    Order order = {key, 0};
    if (digits.Prefix(order, digit).score != threshold.score) continue;
    if (digit >= digits.of_score()) {
      order.reference = ReferenceOrder(from.Reference(i));
      if (digits.Prefix(order, digit).reference != threshold.reference) continue;
    }
    atomicAdd(&shared.histogram[digits.At(order, digit)], 1);
  }
  __syncthreads();
}

// suffix[b] = sum of histogram[b …], by the first warp: 8 bins a lane.
__device__ void SumBins(SelectShared& shared) {
  const int lane = threadIdx.x;
  if (lane < 32) {
    uint32_t own = 0;
    for (int i = 7; i >= 0; --i) {
      own += shared.histogram[8 * lane + i];
      shared.suffix[8 * lane + i] = own;
    }
    uint32_t above = own;
    for (int step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_down_sync(~0u, above, step);
      if (lane + step < 32) above += other;
    }
    above -= own;
    for (int i = 0; i < 8; ++i) shared.suffix[8 * lane + i] += above;
  }
  __syncthreads();
}

// The prefix of the k-th best; candidates whose prefix is not below it are the best k (or all).
// `count` is how many digits the prefix has.
__device__ Order FindThreshold(const Candidates& from, int k, SelectShared& shared, Digits& digits,
                               int& count) {
  Order threshold = {0, 0};
  digits = FindDigits(from, threshold, shared);
  uint32_t wanted = k;
  for (count = 0; count < digits.all();) {
    CountDigits(from, digits, threshold, count, shared);
    SumBins(shared);
    if (shared.suffix[0] <= wanted) return threshold;  // all that are left
    for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
      const uint32_t above = bin + 1 < kBins ? shared.suffix[bin + 1] : 0;
      if (shared.suffix[bin] >= wanted && above < wanted) shared.bin = bin;
    }
    __syncthreads();
    const uint64_t bin = shared.bin;
    const uint32_t inside = shared.histogram[bin];
    wanted -= shared.suffix[bin] - inside;
    if (count < digits.of_score()) {
      threshold.score |= static_cast<uint32_t>(bin) << digits.BitsBelow(count + 1);
    } else {
      threshold.reference |= bin << (56 - 8 * (count - digits.of_score()));
    }
    ++count;
    __syncthreads();
    if (inside == wanted) break;
  }
  return threshold;
}

__device__ void Collect(const Candidates& from, const Digits& digits, const Order& threshold,
                        int count, SelectShared& shared) {
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  for (int64_t i = from.begin + threadIdx.x; i < from.end; i += kThreads) {
    const uint32_t key = from.Key(i);
    if (key == 0 || key < threshold.score) continue;
    const Order order = {key, ReferenceOrder(from.Reference(i))};
    if (Less(digits.Prefix(order, count), threshold)) continue;
    const int at = atomicAdd(&shared.count, 1);
    if (at >= kMaxTopK) continue;  // only if references are not unique
    shared.order[at] = order;
    shared.score[at] = from.scores[i];
    shared.index[at] = from.Index(i);
  }
  __syncthreads();
}

__device__ void SortCollected(SelectShared& shared, int size) {
  for (int i = shared.count + threadIdx.x; i < size; i += kThreads) shared.order[i] = {0, 0};
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += kThreads) {
        const int low = pair / step * step * 2 + pair % step;
        const int high = low + step;
        const bool descending = (low & run) == 0;
        if (Less(shared.order[low], shared.order[high]) != descending) continue;
        const Order order = shared.order[low];
        shared.order[low] = shared.order[high];
        shared.order[high] = order;
        const float score = shared.score[low];
        shared.score[low] = shared.score[high];
        shared.score[high] = score;
        const int32_t index = shared.index[low];
        shared.index[low] = shared.index[high];
        shared.index[high] = index;
      }
      __syncthreads();
    }
  }
}

__device__ int64_t ReferenceOf(uint64_t order) {
  return static_cast<int64_t>(~order ^ 0x8000000000000000u);
}

// The dynamic shared memory has room for the keys of `num_cached` candidates.
__device__ void Select(Candidates from, int num_cached, int k, bool sorted, const Selected& to,
                       SelectShared& shared) {
  extern __shared__ uint32_t keys[];
  if (from.end - from.begin <= num_cached) {
#pragma unroll 8
    for (int64_t i = from.begin + threadIdx.x; i < from.end; i += kThreads) {
      keys[i - from.begin] = from.KeyOf(i);
    }
    from.cached = keys;
    __syncthreads();
  }
  Digits digits;
  int num_digits = 0;
  const Order threshold = FindThreshold(from, k, shared, digits, num_digits);
  Collect(from, digits, threshold, num_digits, shared);
  if (threadIdx.x == 0) shared.count = min(shared.count, kMaxTopK);
  __syncthreads();
  int size = 2;
  while (size < shared.count) size *= 2;
  if (sorted) SortCollected(shared, size);
  const int count = min(shared.count, k);
  for (int i = threadIdx.x; i < k; i += kThreads) {
    to.scores[i] = i < count ? shared.score[i] : kNoScore;
    to.references[i] = i < count ? ReferenceOf(shared.order[i].reference) : -1;
    if (to.indices != nullptr) to.indices[i] = i < count ? shared.index[i] : -1;
  }
  if (to.count != nullptr && threadIdx.x == 0) *to.count = count;
}

// What the slices gave: [num_questions, num_slices, k].
struct SliceResults {
  float* scores = nullptr;
  int64_t* references = nullptr;
  int32_t* indices = nullptr;
};

__device__ Selected Output(const TopKArgs& args, int64_t question) {
  const int64_t out = question * args.k;
  return {args.best_scores + out, args.best_references + out,
          args.best_indices == nullptr ? nullptr : args.best_indices + out,
          args.best_counts == nullptr ? nullptr : args.best_counts + question};
}

// A slice a block; straight to the output when there is but one.
__global__ void __launch_bounds__(kThreads, 2)
    SelectOfSlices(const __grid_constant__ TopKArgs args, SliceResults results, int num_cached) {
  __shared__ SelectShared shared;
  AllowDependents();
  const int64_t slice = blockIdx.x;
  const int64_t question = blockIdx.y;
  const int64_t references_at = question * args.reference_stride;
  Candidates from;
  from.scores = args.scores + question * args.stride;
  from.references = args.references == nullptr ? nullptr : args.references + references_at;
  from.indices = args.indices == nullptr ? nullptr : args.indices + references_at;
  from.visible = args.visible;
  from.begin = args.num_candidates * slice / gridDim.x;
  from.end = args.num_candidates * (slice + 1) / gridDim.x;
  const int64_t at = (question * gridDim.x + slice) * args.k;
  const Selected to = gridDim.x == 1 ? Output(args, question)
                                     : Selected{results.scores + at, results.references + at,
                                                results.indices + at, nullptr};
  Select(from, num_cached, args.k, args.sorted && gridDim.x == 1, to, shared);
}

__global__ void __launch_bounds__(kThreads, 2)
    SelectOfResults(const __grid_constant__ TopKArgs args, SliceResults results, int num_slices,
                    int num_cached) {
  __shared__ SelectShared shared;
  WaitForPrerequisites();
  AllowDependents();
  const int64_t question = blockIdx.x;
  const int64_t at = question * num_slices * args.k;
  Candidates from;
  from.scores = results.scores + at;
  from.references = results.references + at;
  from.indices = results.indices + at;
  from.end = static_cast<int64_t>(num_slices) * args.k;
  Select(from, num_cached, args.k, args.sorted, Output(args, question), shared);
}

// How many keys a list of so many candidates has in shared memory.
int NumCached(int64_t candidates) {
  return static_cast<int>(candidates <= kCachedKeys ? candidates : 0);
}

cudaError_t LaunchOfResults(const TopKArgs& args, const SliceResults& results, int num_slices,
                            cudaStream_t stream) {
  const int num_cached = NumCached(static_cast<int64_t>(num_slices) * args.k);
  const int bytes = num_cached * static_cast<int>(sizeof(uint32_t));
  if (num_cached > kAlwaysCached) {
    // Always the same: another thread's launch may come in between.
    const cudaError_t error =
        cudaFuncSetAttribute(SelectOfResults, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kCachedKeys * sizeof(uint32_t));
    if (error != cudaSuccess) return error;
  }
  return LaunchDependentWith(bytes, SelectOfResults, args.num_questions, kThreads, stream, args,
                             results, num_slices, num_cached);
}

int NumSlices(int64_t num_candidates) {
  const int64_t slices = (num_candidates + kMinSlice - 1) / kMinSlice;
  return static_cast<int>(std::clamp<int64_t>(slices, 1, kMaxSlices));
}

}  // namespace

size_t TopKWorkspaceBytes(int num_questions, int64_t num_candidates, int k) {
  const size_t results = static_cast<size_t>(num_questions) * NumSlices(num_candidates) * k;
  return (results * (sizeof(int64_t) + sizeof(float) + sizeof(int32_t)) + 255) / 256 * 256;
}

cudaError_t SelectTopK(const TopKArgs& args, void* workspace, cudaStream_t stream) {
  if (args.k < 1 || args.k > kMaxTopK || args.num_candidates < 0 ||
      args.num_candidates > INT32_MAX || args.num_questions < 0 || args.num_questions > 65535) {
    return cudaErrorInvalidValue;
  }
  if (args.num_questions == 0) return cudaSuccess;
  const int num_slices = NumSlices(args.num_candidates);
  const size_t num_results = static_cast<size_t>(args.num_questions) * num_slices * args.k;
  SliceResults results;
  results.references = static_cast<int64_t*>(workspace);
  results.scores = reinterpret_cast<float*>(results.references + num_results);
  results.indices = reinterpret_cast<int32_t*>(results.scores + num_results);
  const int64_t slice = (args.num_candidates + num_slices - 1) / num_slices;
  const int num_cached = slice <= kAlwaysCached ? NumCached(slice) : 0;
  // An ordinary launch must stand here: ListedArgs::early counts on all before it having ended.
  SelectOfSlices<<<dim3(num_slices, args.num_questions), kThreads, num_cached * sizeof(uint32_t),
                   stream>>>(args, results, num_cached);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess || num_slices == 1) return error;
  return LaunchOfResults(args, results, num_slices, stream);
}

}  // namespace msa::kernels::cuda

// What the GPU benchmarks share: checked calls, device memory, random data made on the device,
// times by events, the copy bandwidth as the floor.
#ifndef MSA_BENCHMARKS_CUDA_DEVICE_BENCH_CUH_
#define MSA_BENCHMARKS_CUDA_DEVICE_BENCH_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#define CUDA_OK(call)                                                                       \
  do {                                                                                      \
    const cudaError_t error_ = (call);                                                      \
    if (error_ != cudaSuccess) {                                                            \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      std::exit(1);                                                                         \
    }                                                                                       \
  } while (0)

namespace msa::benchmarks {

__device__ inline uint32_t Hash(uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
  return static_cast<uint32_t>(x >> 32);
}

// Uniform in -0.5 … 0.5.
static __global__ void FillFloats(float* to, int64_t count) {
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

// Microseconds a run. `queued` is the mean when nothing but runs is in the stream (Measure only).
struct Time {
  double median = 0;
  double low = 0;
  double high = 0;
  double queued = 0;
};

inline Time Measure(int repetitions, const std::function<void(int)>& run) {
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
  CUDA_OK(cudaEventRecord(events[0]));
  for (int i = 0; i < repetitions; ++i) run(i + 2);
  CUDA_OK(cudaEventRecord(events[1]));
  CUDA_OK(cudaDeviceSynchronize());
  float queued_ms = 0;
  CUDA_OK(cudaEventElapsedTime(&queued_ms, events[0], events[1]));
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), queued_ms * 1e3 / repetitions};
}

// Times of replays of what `body` puts into `stream`, captured as one graph, after two to warm up.
inline Time MeasureGraph(cudaStream_t stream, int replays, const std::function<void()>& body) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  body();
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  CUDA_OK(cudaEventCreate(&begin));
  CUDA_OK(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < replays + 2; ++i) {
    CUDA_OK(cudaEventRecord(begin, stream));
    CUDA_OK(cudaGraphLaunch(exec, stream));
    CUDA_OK(cudaEventRecord(end, stream));
    CUDA_OK(cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(ms * 1e3);
  }
  CUDA_OK(cudaEventDestroy(begin));
  CUDA_OK(cudaEventDestroy(end));
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

// GB/s, bytes read and written.
inline double CopyBandwidth(char* memory, int64_t bytes) {
  const Time time = Measure(9, [&](int) {
    CUDA_OK(cudaMemcpyAsync(memory + bytes / 2, memory, bytes / 2, cudaMemcpyDeviceToDevice));
  });
  return bytes / time.median * 1e-3;
}

}  // namespace msa::benchmarks

#endif  // MSA_BENCHMARKS_CUDA_DEVICE_BENCH_CUH_

// What the GPU test programs share: device memory with guard bytes, checks that name the case, and
// random data. Each program is compiled by nvcc alone and returns 0 when every check passed.
#ifndef MSA_TESTS_GPU_GPU_TEST_H_
#define MSA_TESTS_GPU_GPU_TEST_H_

#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace msa::testing {

inline void CheckCuda(cudaError_t error, const char* what, int line) {
  if (error == cudaSuccess) return;
  std::printf("FATAL line %d: %s: %s\n", line, what, cudaGetErrorString(error));
  std::exit(2);
}
#define CUDA_OK(call) ::msa::testing::CheckCuda((call), #call, __LINE__)

inline int& Failures() {
  static int failures = 0;
  return failures;
}

inline void Expect(bool ok, const std::string& what) {
  if (ok) return;
  if (++Failures() <= 40) std::printf("FAILED: %s\n", what.c_str());
}

// Device memory that begins as NaN patterns, with a guard after it.
template <class T>
class DeviceBuffer {
 public:
  static constexpr size_t kGuardBytes = 256;

  explicit DeviceBuffer(size_t n) : n_(n) {
    CUDA_OK(cudaMalloc(&data_, n * sizeof(T) + kGuardBytes));
    CUDA_OK(cudaMemset(data_, 0xff, n * sizeof(T) + kGuardBytes));
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    if (n_ > 0) {
      CUDA_OK(cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
    }
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept : n_(other.n_), data_(other.data_) {
    other.data_ = nullptr;
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  ~DeviceBuffer() {
    if (data_ != nullptr) cudaFree(data_);
  }

  T* get() { return data_; }
  size_t size() const { return n_; }
  void Poison() { CUDA_OK(cudaMemset(data_, 0xff, n_ * sizeof(T))); }

  std::vector<T> ToHost() const {
    std::vector<T> values(n_);
    CUDA_OK(cudaDeviceSynchronize());
    if (n_ > 0) CUDA_OK(cudaMemcpy(values.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

  bool GuardIsWhole() const {
    unsigned char guard[kGuardBytes];
    CUDA_OK(cudaMemcpy(guard, data_ + n_, kGuardBytes, cudaMemcpyDeviceToHost));
    for (unsigned char byte : guard) {
      if (byte != 0xff) return false;
    }
    return true;
  }

 private:
  size_t n_;
  T* data_ = nullptr;
};

inline std::vector<float> RandomFloats(size_t n, uint32_t seed, double size = 1.0) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, static_cast<float>(size));
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

// |actual - expected| <= tolerance · (1 + |expected|), NaN only where expected is NaN.
inline bool Near(double actual, double expected, double tolerance) {
  if (std::isnan(expected)) return std::isnan(actual);
  return std::fabs(actual - expected) <= tolerance * (1 + std::fabs(expected));
}

template <class Actual, class Expected>
void ExpectNear(const std::vector<Actual>& actual, const std::vector<Expected>& expected,
                double tolerance, const std::string& what) {
  Expect(actual.size() == expected.size(), what + ": size");
  for (size_t i = 0; i < actual.size() && i < expected.size(); ++i) {
    const auto a = static_cast<double>(actual[i]);
    const auto e = static_cast<double>(expected[i]);
    if (Near(a, e, tolerance)) continue;
    Expect(false, what + ": element " + std::to_string(i) + " is " + std::to_string(a) + ", not " +
                      std::to_string(e));
    return;
  }
}

inline int Finish(const char* name) {
  CUDA_OK(cudaDeviceSynchronize());
  std::printf("%s: %s (%d failures)\n", name, Failures() == 0 ? "PASSED" : "FAILED", Failures());
  return Failures() == 0 ? 0 : 1;
}

}  // namespace msa::testing

#endif  // MSA_TESTS_GPU_GPU_TEST_H_

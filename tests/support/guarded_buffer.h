// An output buffer between guard bytes: a write before or after it fails the test that owns it.
#ifndef MSA_TESTS_SUPPORT_GUARDED_BUFFER_H_
#define MSA_TESTS_SUPPORT_GUARDED_BUFFER_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace msa::testing {

// n elements of T, first filled with bytes 0xA5 (a float of -2.9e-16), aligned for T only.
template <typename T>
class GuardedBuffer {
 public:
  explicit GuardedBuffer(size_t n) : n_(n), bytes_(2 * kGuard + n * sizeof(T), 0xA5) {}
  ~GuardedBuffer() {
    const auto is_guard = [](uint8_t byte) { return byte == 0xA5; };
    EXPECT_TRUE(std::all_of(bytes_.begin(), bytes_.begin() + kGuard, is_guard))
        << "written before the buffer";
    EXPECT_TRUE(std::all_of(bytes_.end() - kGuard, bytes_.end(), is_guard))
        << "written past the buffer";
  }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  T* data() { return reinterpret_cast<T*>(bytes_.data() + kGuard); }
  T& operator[](size_t i) { return data()[i]; }
  size_t size() const { return n_; }
  absl::Span<const T> span() { return {data(), n_}; }

 private:
  static constexpr size_t kGuard = 256;
  size_t n_;
  std::vector<uint8_t> bytes_;
};

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_GUARDED_BUFFER_H_

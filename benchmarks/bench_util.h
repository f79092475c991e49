// What every benchmark program needs: repeated timings with median and spread, the machine's name,
// numbers that cannot be optimised away. Rivals are timed in turns within one run, since the
// machine is shared and its speed drifts.
#ifndef MSA_BENCHMARKS_BENCH_UTIL_H_
#define MSA_BENCHMARKS_BENCH_UTIL_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"

namespace msa::bench {

// Seconds of repeated runs.
struct Timing {
  std::vector<double> seconds;

  double Quantile(double q) const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
  double median() const { return Quantile(0.5); }
  double best() const { return Quantile(0.0); }
  nlohmann::json Json() const {
    return {{"median_us", median() * 1e6},
            {"best_us", best() * 1e6},
            {"p90_us", Quantile(0.9) * 1e6},
            {"runs", seconds.size()}};
  }
};

inline double SecondsOf(const std::function<void()>& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Times the bodies in turns, `runs` rounds after one to warm up.
inline std::vector<Timing> TimeInTurns(int runs, const std::vector<std::function<void()>>& bodies) {
  std::vector<Timing> timings(bodies.size());
  for (int run = -1; run < runs; ++run) {
    for (size_t i = 0; i < bodies.size(); ++i) {
      const double seconds = SecondsOf(bodies[i]);
      if (run >= 0) timings[i].seconds.push_back(seconds);
    }
  }
  return timings;
}

inline std::vector<float> RandomFloats(size_t n, uint32_t seed, float size = 1.0f) {
  std::minstd_rand generator(seed);
  std::uniform_real_distribution<float> uniform(-size, size);
  std::vector<float> values(n);
  for (float& value : values) value = uniform(generator);
  return values;
}

// The sum of the 64-bit words of [data, data + bytes), bytes a multiple of 256: four streams, each
// fetched 2 KB ahead, which on Zen 3 reads up to half as fast again as one plain stream.
inline uint64_t ReadAll(const void* data, size_t bytes) {
  const uint64_t* words = static_cast<const uint64_t*>(data);
  const size_t quarter = bytes / 8 / 4;
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= quarter; i += 8) {
    for (size_t stream = 0; stream < 4; ++stream) {
      const uint64_t* line = words + stream * quarter + i;
      __builtin_prefetch(line + 256);
      for (int j = 0; j < 8; ++j) sums[j] += line[j];
    }
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

inline nlohmann::json Machine() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  std::string model = "unknown";
  while (std::getline(cpuinfo, line)) {
    if (line.rfind("model name", 0) == 0) {
      model = line.substr(line.find(':') + 2);
      break;
    }
  }
  return {{"cpu", model}, {"cores", std::thread::hardware_concurrency()}};
}

}  // namespace msa::bench

#endif  // MSA_BENCHMARKS_BENCH_UTIL_H_

// Where a question's milliseconds go.
#ifndef MSA_COMPUTE_NODE_STOPWATCH_H_
#define MSA_COMPUTE_NODE_STOPWATCH_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace msa::compute_node {

// Adds the time its scope took, in milliseconds, to a total that must outlive it.
class Stopwatch {
 public:
  explicit Stopwatch(double& total_ms) : total_ms_(total_ms), start_(absl::Now()) {}
  ~Stopwatch() { total_ms_ += absl::ToDoubleMilliseconds(absl::Now() - start_); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& total_ms_;
  const absl::Time start_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_STOPWATCH_H_

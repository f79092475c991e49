// Lines in the log about calls that failed by no fault of their callers.
#ifndef MSA_RPC_FAILED_CALLS_H_
#define MSA_RPC_FAILED_CALLS_H_

#include <cstdint>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace msa::rpc {

// Thread-safe.
class FailedCalls {
 public:
  // A storm of failures must not fill a disk.
  static constexpr int kLinesPerSecond = 10;

  // Writes a warning where the code is UNAVAILABLE, INTERNAL, DATA_LOSS or UNKNOWN, the alert
  // MsaCallsFail's. The first line after some that would have been too many says how many.
  // `why`: what the client is told.
  void Ended(std::string_view service, std::string_view method, absl::StatusCode code,
             std::string_view why, absl::Time now);

 private:
  // How many lines were left out since the one before; -1: leave this one out, too.
  int64_t TakeLine(absl::Time now);

  absl::Mutex mutex_;
  absl::Time second_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // in which there are lines_
  int lines_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_FAILED_CALLS_H_

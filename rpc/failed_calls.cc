#include "rpc/failed_calls.h"

#include <utility>
#include <vector>

#include "common/log.h"
#include "common/strings.h"

namespace msa::rpc {
namespace {

bool IsLogged(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kInternal ||
         code == absl::StatusCode::kDataLoss || code == absl::StatusCode::kUnknown;
}

}  // namespace

void FailedCalls::Ended(std::string_view service, std::string_view method, absl::StatusCode code,
                        std::string_view why, absl::Time now) {
  if (!IsLogged(code)) return;
  const int64_t left_out = TakeLine(now);
  if (left_out < 0) return;
  std::vector<LogField> fields = {{"method", StrCat(service, "/", method)},
                                  {"code", absl::StatusCodeToString(code)},
                                  {"why", why}};
  if (left_out > 0) fields.emplace_back("left_out", left_out);
  Log(LogLevel::kWarning, "a call failed", fields);
}

int64_t FailedCalls::TakeLine(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  // A clock that was set back begins anew, too.
  if (now < second_ || now >= second_ + absl::Seconds(1)) {
    second_ = now;
    lines_ = 0;
  }
  if (lines_ == kLinesPerSecond) {
    ++left_out_;
    return -1;
  }
  ++lines_;
  return std::exchange(left_out_, 0);
}

}  // namespace msa::rpc

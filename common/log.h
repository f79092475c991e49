// Structured log lines on standard error, as text or as JSON objects, one an event.
//   text  2026-11-23T04:20:11.123Z info document added  bank=default id=a tokens=812
//   request_id=9f2c json  {"time":"2026-…Z","level":"info","message":"document
//   added","bank":"default",…}
// Thread-safe. A line below the configured level costs one comparison. Never logs users' texts.
#ifndef MSA_COMMON_LOG_H_
#define MSA_COMMON_LOG_H_

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace msa {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// "debug", "info", "warning", "error"; INVALID_ARGUMENT that lists them otherwise.
absl::StatusOr<LogLevel> ParseLogLevel(std::string_view name);

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  bool json = false;
};

// Before it is called: level info, text.
void ConfigureLogging(const LogOptions& options);

// One key and value of a line. Numbers and booleans stay so in JSON.
class LogField {
 public:
  LogField(std::string_view key, std::string_view value);
  LogField(std::string_view key, const char* value) : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, const std::string& value)
      : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, bool value);
  LogField(std::string_view key, double value);
  LogField(std::string_view key, std::integral auto value) : LogField(key) {
    text_ = std::to_string(value);
  }

  std::string_view key() const { return key_; }
  // The value as JSON: quoted and escaped when it is a string.
  std::string Json() const;
  // The value as text: quoted only when it holds a space, a quote or a control character.
  std::string Text() const;

 private:
  explicit LogField(std::string_view key) : key_(key) {}

  std::string_view key_;
  std::string text_;
  bool is_string_ = false;
};

// The line without its newline, as `Log` would write it at `time` (RFC 3339).
std::string FormatLogLine(bool json, std::string_view time, LogLevel level,
                          std::string_view message, absl::Span<const LogField> fields,
                          std::string_view request_id);

void Log(LogLevel level, std::string_view message, absl::Span<const LogField> fields);
inline void Log(LogLevel level, std::string_view message,
                std::initializer_list<LogField> fields = {}) {
  Log(level, message, absl::MakeConstSpan(fields.begin(), fields.size()));
}

// The id that lines of this thread carry; empty: none.
std::string CurrentRequestId();

// While it lives, lines of this thread carry request_id; an empty one: none. Nests.
class ScopedRequestId {
 public:
  explicit ScopedRequestId(std::string request_id);
  ~ScopedRequestId();
  ScopedRequestId(const ScopedRequestId&) = delete;
  ScopedRequestId& operator=(const ScopedRequestId&) = delete;

 private:
  std::string previous_;
};

}  // namespace msa

#endif  // MSA_COMMON_LOG_H_

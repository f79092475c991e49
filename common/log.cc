#include "common/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/strings.h"

namespace msa {
namespace {

thread_local std::string current_request_id;

std::atomic<bool>& JsonLines() {
  static std::atomic<bool> json{false};
  return json;
}

// The library brings the thread-safe sink and the levels; the line is ours, so that both forms hold
// the same fields.
spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made =
        std::make_shared<spdlog::logger>("msa", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%v");
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "unknown";
}

// Broken UTF-8 is replaced: a log line must never fail.
std::string Quote(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool NeedsQuotes(std::string_view text) {
  return text.empty() || std::any_of(text.begin(), text.end(), [](unsigned char c) {
           return c <= ' ' || c == '"' || c == '=' || c == 0x7F;
         });
}

}  // namespace

absl::StatusOr<LogLevel> ParseLogLevel(std::string_view name) {
  for (LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (name == LevelName(level)) return level;
  }
  return absl::InvalidArgumentError(
      StrCat("unknown log level '", name, "': use debug, info, warning or error"));
}

void ConfigureLogging(const LogOptions& options) {
  JsonLines() = options.json;
  Logger().set_level(SpdlogLevel(options.level));
}

LogField::LogField(std::string_view key, std::string_view value)
    : key_(key), text_(value), is_string_(true) {}
LogField::LogField(std::string_view key, bool value) : key_(key), text_(value ? "true" : "false") {}
LogField::LogField(std::string_view key, double value)
    : key_(key), text_(nlohmann::json(value).dump()) {}

std::string LogField::Json() const { return is_string_ ? Quote(text_) : text_; }
std::string LogField::Text() const {
  return is_string_ && NeedsQuotes(text_) ? Quote(text_) : text_;
}

std::string FormatLogLine(bool json, std::string_view time, LogLevel level,
                          std::string_view message, absl::Span<const LogField> fields,
                          std::string_view request_id) {
  std::string line =
      json ? StrCat("{\"time\":", Quote(time), ",\"level\":", Quote(LevelName(level)),
                    ",\"message\":", Quote(message))
           : StrCat(time, " ", LevelName(level), " ", message, fields.size() ? " " : "");
  const auto append = [&](const LogField& field) {
    if (json) {
      line += StrCat(",", Quote(field.key()), ":", field.Json());
    } else {
      line += StrCat(" ", field.key(), "=", field.Text());
    }
  };
  for (const LogField& field : fields) append(field);
  if (!request_id.empty()) append(LogField("request_id", request_id));
  if (json) line += "}";
  return line;
}

void Log(LogLevel level, std::string_view message, absl::Span<const LogField> fields) {
  spdlog::logger& logger = Logger();
  if (!logger.should_log(SpdlogLevel(level))) return;
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  const std::string line =
      FormatLogLine(JsonLines(), time, level, message, fields, current_request_id);
  logger.log(SpdlogLevel(level), spdlog::string_view_t(line.data(), line.size()));
}

std::string CurrentRequestId() { return current_request_id; }

ScopedRequestId::ScopedRequestId(std::string request_id)
    : previous_(std::exchange(current_request_id, std::move(request_id))) {}
ScopedRequestId::~ScopedRequestId() { current_request_id = std::move(previous_); }

}  // namespace msa

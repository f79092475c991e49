#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/strings.h"

namespace msa::cli {

std::string ProgressBar(uint64_t done, uint64_t total, int width) {
  if (total == 0) return "";
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const int filled = static_cast<int>(share * width);
  return StrCat("[", std::string(filled, '#'), std::string(width - filled, '.'), "]",
                absl::StrFormat(" %3.0f%%", share * 100));
}

std::string ProgressLine(uint64_t done, uint64_t total, const std::string& text, int columns) {
  constexpr int kWidestBar = 30, kNarrowestBar = 10;
  constexpr int kAround = 9;  // brackets, percentage, two spaces
  const int room = columns - kAround - static_cast<int>(text.size());
  const std::string bar = ProgressBar(done, total, std::clamp(room, kNarrowestBar, kWidestBar));
  const std::string line = bar.empty() ? text : StrCat(bar, "  ", text);
  return line.substr(0, static_cast<size_t>(std::max(columns, 0)));
}

std::string ShortDuration(absl::Duration duration) {
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(duration));
  if (seconds < 3600) return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
  return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

namespace {

// Of the terminal on standard error.
int TerminalColumns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

std::string WithCommas(int64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool starts_group = (digits.size() - i) % 3 == 0 && i > (value < 0 ? 1u : 0u);
    if (starts_group) text += ',';
    text += digits[i];
  }
  return text;
}

void Progress::Update(uint64_t done, uint64_t total, const std::string& text) {
  if (!enabled_) return;
  const absl::Time now = absl::Now();
  if (drawn_ && now - last_draw_ < absl::Milliseconds(100)) return;
  last_draw_ = now;
  drawn_ = true;
  std::string timed = text;
  if (done > 0 && done < total) {
    const double left = static_cast<double>(total - done) / static_cast<double>(done);
    timed += StrCat(", ", ShortDuration((now - start_) * left), " left");
  }
  // \r and "erase to the end of the line": a shorter text leaves nothing of a longer one. The last
  // column stays free: a terminal may begin a new line after it.
  out_ << "\r" << ProgressLine(done, total, timed, TerminalColumns() - 1) << "\x1b[K" << std::flush;
}

void Progress::Clear() {
  if (!drawn_) return;
  out_ << "\r\x1b[K" << std::flush;
  drawn_ = false;
}

}  // namespace msa::cli

#include "cli/progress.h"

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
  // \r and "erase to the end of the line": a shorter text leaves nothing of a longer one.
  out_ << "\r" << ProgressBar(done, total, 30) << "  " << text << "\x1b[K" << std::flush;
}

void Progress::Clear() {
  if (!drawn_) return;
  out_ << "\r\x1b[K" << std::flush;
  drawn_ = false;
}

}  // namespace msa::cli

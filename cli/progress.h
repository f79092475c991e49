// A progress bar for long work on a terminal. Writes nothing elsewhere: scripts read the results.
#ifndef MSA_CLI_PROGRESS_H_
#define MSA_CLI_PROGRESS_H_

#include <cstdint>
#include <ostream>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace msa::cli {

// "[#####.....]  50%": `width` cells; empty when total is 0.
std::string ProgressBar(uint64_t done, uint64_t total, int width);
// Bar and text on one line of at most `columns`: the bar shrinks first, then the text (ASCII) is
// cut.
std::string ProgressLine(uint64_t done, uint64_t total, const std::string& text, int columns);
// "0:09", "1:23:45".
std::string ShortDuration(absl::Duration duration);
// 1234567 → "1,234,567".
std::string WithCommas(int64_t value);

class Progress {
 public:
  // `enabled`: `out` is a terminal.
  Progress(std::ostream& out, bool enabled) : out_(out), enabled_(enabled) {}
  ~Progress() { Clear(); }

  // Draws at most ten times a second, on one line of the terminal as wide as it is then.
  void Update(uint64_t done, uint64_t total, const std::string& text);
  // Takes the bar away, so that a line can be written; the next Update draws it again.
  void Clear();

 private:
  std::ostream& out_;
  const bool enabled_;
  const absl::Time start_ = absl::Now();
  bool drawn_ = false;
  absl::Time last_draw_ = absl::InfinitePast();
};

}  // namespace msa::cli

#endif  // MSA_CLI_PROGRESS_H_

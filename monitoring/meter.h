// What counts as things happen, in Prometheus's terms but free of its headers. Whoever counts keeps
// the reference that the exporter gave: names and labels are looked up once. Thread-safe; a count
// costs a tenth of a microsecond.
#ifndef MSA_MONITORING_METER_H_
#define MSA_MONITORING_METER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace msa::monitoring {

class Counter {
 public:
  virtual ~Counter() = default;
  virtual void Add(double more) = 0;  // not negative
};

// One counter a code, each told from its first count on.
class CodeCounter {
 public:
  virtual ~CodeCounter() = default;
  virtual void Count(absl::StatusCode code) = 0;
};

// Of durations: a millisecond to five minutes.
class Histogram {
 public:
  virtual ~Histogram() = default;
  virtual void Observe(absl::Duration took) = 0;
};

struct MeterName {
  std::string name;  // "msa_prompt_tokens_total"; of a histogram "..._seconds"
  std::string help;
  std::vector<std::pair<std::string, std::string>> labels = {};  // names and values
};

}  // namespace msa::monitoring

#endif  // MSA_MONITORING_METER_H_

// A figure of this process that is read when somebody asks for it, in Prometheus's terms but free
// of its headers.
#ifndef MSA_MONITORING_FIGURE_H_
#define MSA_MONITORING_FIGURE_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace msa::monitoring {

struct Sample {
  std::vector<std::pair<std::string, std::string>> labels;  // names and values
  double value = 0;
};

struct Figure {
  enum class Kind { kGauge, kCounter };  // a counter only grows; its name ends in _total

  std::string name;  // "msa_documents"
  std::string help;
  Kind kind = Kind::kGauge;
  std::vector<Sample> samples;
};

// May take as long as a few reads of counters do.
using FigureSource = std::function<std::vector<Figure>()>;

}  // namespace msa::monitoring

#endif  // MSA_MONITORING_FIGURE_H_

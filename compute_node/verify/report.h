// What a golden case was compared on and how it came out.
#ifndef MSA_COMPUTE_NODE_VERIFY_REPORT_H_
#define MSA_COMPUTE_NODE_VERIFY_REPORT_H_

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/safetensors.h"

namespace msa::compute_node {

// Largest absolute error of one tensor against its tolerance.
struct TensorCheck {
  std::string name;
  double max_error = 0;
  double tolerance = 0;
  bool ok = false;
};

// Something that must be equal: ids, masks, texts, selections.
struct ExactCheck {
  std::string name;
  bool ok = false;
  std::string detail;  // what differs, empty when ok
};

struct VerifyReport {
  std::string case_dir;
  std::string kind;  // "numeric", "rounds", "prompts" or "adapter"
  std::vector<TensorCheck> tensors;
  std::vector<ExactCheck> exact;
  std::vector<std::string> skipped;  // what could not be compared here, and why
  std::set<std::string> used;        // the case's tensors that something was compared with

  bool ok() const;
};

// Absolute tolerances of float32 computation, by what a tensor is (its name's last component).
// tests/golden/README.md.
class Tolerances {
 public:
  static Tolerances Numeric();  // tiny random models
  static Tolerances Adapter();  // a real model with its adapter
  double For(std::string_view tensor_name) const;

 private:
  struct Row {
    std::string_view suffix;
    double value;
  };
  explicit Tolerances(std::vector<Row> rows) : rows_(std::move(rows)) {}
  std::vector<Row> rows_;
};

// Compares against expected.safetensors; collects into a report.
class Comparer {
 public:
  Comparer(const SafetensorsFile& expected, Tolerances tolerances, VerifyReport& report)
      : expected_(expected), tolerances_(std::move(tolerances)), report_(report) {}

  // Nothing where the case does not hold the tensor; a failed check where sizes differ or a value
  // is NaN.
  void Tensor(const std::string& name, absl::Span<const float> actual);
  void Int64(const std::string& name, absl::Span<const int64_t> actual);

  template <typename T>
  void Equal(const std::string& name, const T& actual, const T& expected) {
    AddExact(name, actual == expected, actual == expected ? "" : "differs from the case");
  }
  void AddExact(std::string name, bool ok, std::string detail);

 private:
  void AddTensor(const std::string& name, absl::Span<const float> actual,
                 absl::Span<const float> expected);

  const SafetensorsFile& expected_;
  Tolerances tolerances_;
  VerifyReport& report_;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_VERIFY_REPORT_H_

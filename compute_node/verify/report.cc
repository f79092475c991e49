#include "compute_node/verify/report.h"

#include <algorithm>
#include <cmath>

#include "common/strings.h"

namespace msa::compute_node {

bool VerifyReport::ok() const {
  const auto passed = [](const auto& check) { return check.ok; };
  return !(tensors.empty() && exact.empty()) &&
         std::all_of(tensors.begin(), tensors.end(), passed) &&
         std::all_of(exact.begin(), exact.end(), passed);
}

Tolerances Tolerances::Numeric() {
  return Tolerances({{"pooled_k", 1e-4},
                     {"pooled_v", 1e-4},
                     {"routing_keys", 5e-5},
                     {"template_k", 2e-5},
                     {"template_v", 2e-5},
                     {"routing_q", 2e-5},
                     {"folded_q", 2e-5},
                     {"doc_scores", 2e-5},
                     {"selected_scores", 2e-5},
                     {"hidden", 1e-4},
                     {"logits", 2e-4}});
}

Tolerances Tolerances::Adapter() {
  return Tolerances({{"pooled_k", 1e-4},
                     {"pooled_v", 1e-4},
                     {"routing_keys", 5e-6},
                     {"template_k", 5e-4},
                     {"template_v", 5e-4},
                     {"folded_q", 5e-6},
                     {"doc_scores", 5e-6},
                     {"hidden_last", 2e-3},
                     {"logits", 1e-3}});
}

double Tolerances::For(std::string_view tensor_name) const {
  const std::string_view last = tensor_name.substr(tensor_name.rfind('.') + 1);
  for (const Row& row : rows_) {
    if (last == row.suffix) return row.value;
  }
  return 0;
}

void Comparer::AddExact(std::string name, bool ok, std::string detail) {
  report_.exact.push_back({std::move(name), ok, std::move(detail)});
}

void Comparer::AddTensor(const std::string& name, absl::Span<const float> actual,
                         absl::Span<const float> expected) {
  if (actual.size() != expected.size()) {
    AddExact(name, false, StrCat("has ", actual.size(), " elements, the case ", expected.size()));
    return;
  }
  TensorCheck check;
  check.name = name;
  check.tolerance = tolerances_.For(name);
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(static_cast<double>(actual[i]) - expected[i]);
    // A comparison with NaN is false: it must not pass for a small error.
    check.max_error = error <= check.max_error ? check.max_error : error;
    if (std::isnan(error)) break;
  }
  check.ok = check.max_error <= check.tolerance;
  report_.tensors.push_back(std::move(check));
}

void Comparer::Tensor(const std::string& name, absl::Span<const float> actual) {
  const TensorView* view = expected_.FindOrNull(name);
  if (view == nullptr) return;
  report_.used.insert(name);
  const auto expected = ToFloat32(*view);
  if (!expected.ok()) return AddExact(name, false, std::string(expected.status().message()));
  AddTensor(name, actual, *expected);
}

void Comparer::Int64(const std::string& name, absl::Span<const int64_t> actual) {
  const TensorView* view = expected_.FindOrNull(name);
  if (view == nullptr) return;
  report_.used.insert(name);
  const auto expected = ToInt64(*view);
  if (!expected.ok()) return AddExact(name, false, std::string(expected.status().message()));
  Equal(name, std::vector<int64_t>(actual.begin(), actual.end()), *expected);
}

}  // namespace msa::compute_node

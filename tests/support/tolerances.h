// The one table of what may differ between a float32 computation and its double oracle. Inputs of
// the tests that use it are of order 1 before, and dot products of order 1 after, any scale.
#ifndef MSA_TESTS_SUPPORT_TOLERANCES_H_
#define MSA_TESTS_SUPPORT_TOLERANCES_H_

namespace msa::testing {

struct Tolerances {
  // Sums in float32 of up to some thousand products of order width^-1/2 each.
  static constexpr double kDot = 4e-6;
  // Where x, and int8 weights once more, are rounded to bfloat16: relative 2^-8 a factor, and the
  // errors of the products add like random numbers.
  static constexpr double kHalfDot = 2e-2;
  static constexpr double kScore = 1e-5;
  static constexpr double kAttention = 1e-5;
  static constexpr double kElementwise = 3e-6;
  // Vectors of the published engine (tests/golden): scores, selected ids exact.
  static constexpr double kGoldenScore = 2e-5;
  static constexpr double kGoldenFolded = 2e-5;
};

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_TOLERANCES_H_

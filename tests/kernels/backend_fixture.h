// Runs a contract test on every backend that this machine has: `cuda` where there is a GPU.
#ifndef MSA_TESTS_KERNELS_BACKEND_FIXTURE_H_
#define MSA_TESTS_KERNELS_BACKEND_FIXTURE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"

namespace msa::testing {

class BackendTest : public ::testing::TestWithParam<std::string> {
 protected:
  BackendTest() : backend_(Make(2)) {}
  static std::unique_ptr<kernels::Backend> Make(int num_threads) {
    auto backend = kernels::MakeBackend(GetParam(), num_threads);
    EXPECT_TRUE(backend.ok()) << backend.status();
    return *std::move(backend);
  }
  std::unique_ptr<kernels::Backend> backend_;
};

inline std::vector<std::string> BackendsHere() {
  std::vector<std::string> names = {"reference", "cpu"};
  if (kernels::MakeBackend("cuda", 0).ok()) names.push_back("cuda");
  return names;
}

#define MSA_ON_EVERY_BACKEND(suite)                                                              \
  INSTANTIATE_TEST_SUITE_P(Backends, suite, ::testing::ValuesIn(::msa::testing::BackendsHere()), \
                           [](const auto& info) { return info.param; })

}  // namespace msa::testing

#endif  // MSA_TESTS_KERNELS_BACKEND_FIXTURE_H_

#include "cli/gpu_flags.h"

#include <gmock/gmock.h>

#include "cli/exit_code.h"
#include "tests/cli/cli_fixture.h"

namespace msa::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(GpuFlagsTest, NumbersAreThoseGivenElseTheFirstGpu) {
  EXPECT_THAT(*GpuFlags{}.Numbers(), ElementsAre(0));
  EXPECT_THAT(*(GpuFlags{"3,1", 0, 0}).Numbers(), ElementsAre(3, 1));
  for (const char* list : {"", "x", "0,0", "-1", "1,"}) {
    EXPECT_EQ((GpuFlags{list, 0, 0}).Numbers().status().code(), absl::StatusCode::kInvalidArgument)
        << list;
  }
}

TEST(GpuFlagsTest, WhatNoGpuWouldLookAtIsAUsageErrorThatSaysWhatToDo) {
  EXPECT_TRUE(GpuFlags{}.CheckFor("cpu").ok());
  EXPECT_TRUE((GpuFlags{"0,1", 100, 100}).CheckFor("cuda").ok());
  GpuFlags one, two, three;
  one.gpus.emplace("0");
  two.gpu_memory_mb = 1;
  three.host_memory_mb = 1;
  const std::pair<GpuFlags, std::string> cases[] = {
      {one, "--gpus and MSA_GPUS away"},
      {two, "--gpu-memory and MSA_GPU_MEMORY away"},
      {three, "--host-memory and MSA_HOST_MEMORY away"}};
  for (const auto& [flags, away] : cases) {
    for (const char* backend : {"cpu", "reference"}) {
      const absl::Status status = flags.CheckFor(backend);
      EXPECT_EQ(ExitCode(status), kExitUsage);
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr("give --backend cuda, or leave " + away));
    }
  }
}

TEST_F(CliTest, ABenchRefusesGpusThatItsBackendDoesNotUse) {
  GpuFlags made;
  synthetic_ = [&](const SyntheticOptions& options) {
    made = options.gpus;
    return connect_({"synthetic"});
  };
  EXPECT_EQ(Msa({"bench", "--synthetic-model", "msa-tiny", "--gpus", "1"}), 2);
  EXPECT_THAT(err_, HasSubstr("give --backend cuda"));
  EXPECT_EQ(server_, "");
  EXPECT_EQ(Msa({"bench", "--questions", "q", "--gpu-memory", "9"}), 2);
  EXPECT_EQ(server_, "") << "nobody was asked";
  Msa({"bench", "--synthetic-model", "msa-tiny", "--backend", "cuda", "--gpus", "1"});
  EXPECT_EQ(server_, "synthetic");
  EXPECT_THAT(*made.Numbers(), ElementsAre(1));
}

// A running server has its own.
TEST_F(CliTest, ABenchOfARunningServerRefusesWhatOnlyOneOfItsOwnHas) {
  synthetic_ = [&](const SyntheticOptions&) { return connect_({"synthetic"}); };
  const std::vector<std::string> bench = {"bench", "--questions",
                                          Write("q", "{\"question\": \"?\"}")};
  const std::vector<std::vector<std::string>> cases = {{"--backend", "cuda", "--gpus", "0"},
                                                       {"--backend", "reference"},
                                                       {"--tokens", "10M"},
                                                       {"--keys", "int8"},
                                                       {"--content", "int8"},
                                                       {"--weights", "f32"},
                                                       {"--codes", "64"},
                                                       {"--tokenizer", "t.json"}};
  for (const std::vector<std::string>& more : cases) {
    std::vector<std::string> arguments = bench;
    arguments.insert(arguments.end(), more.begin(), more.end());
    EXPECT_EQ(Msa(arguments), 2) << more.front();
    EXPECT_THAT(err_, HasSubstr("give --synthetic-model msa-4b, or leave " + more[0] + " away"));
    EXPECT_EQ(server_, "") << "nobody was asked";
  }
  // What `msa serve` is told by is in the environment of its clients too.
  SetEnvironment("MSA_BACKEND", "cuda");
  SetEnvironment("MSA_GPUS", "0");
  Msa(bench);
  EXPECT_EQ(server_, "127.0.0.1:7070") << err_;
}

}  // namespace
}  // namespace msa::cli

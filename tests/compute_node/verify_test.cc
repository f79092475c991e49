// `msa verify` itself: it must pass what is right and fail what is not. The numeric cases run in
// tests/integration.
#include "compute_node/verify/verify.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {
namespace {

namespace fs = std::filesystem;

std::string Case(const std::string& name) {
  return std::string(MSA_SOURCE_DIR) + "/tests/golden/" + name;
}

void ExpectPasses(const std::string& dir) {
  const auto report = RunVerify(dir, {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->exact.size(), 100u);
  for (const ExactCheck& check : report->exact) EXPECT_TRUE(check.ok) << check.name << check.detail;
  EXPECT_TRUE(report->ok());
}

TEST(VerifyPromptsTest, QwenSmall) { ExpectPasses(Case("prompts/qwen_small")); }
TEST(VerifyPromptsTest, SmolLm2) { ExpectPasses(Case("prompts/smollm2_msa")); }

TEST(VerifyPromptsTest, FailsWhereTheCaseSaysOtherwise) {
  const fs::path dir = fs::path(::testing::TempDir()) / "verify_altered";
  fs::remove_all(dir);
  fs::create_directories(dir / "prompts");
  fs::copy(Case("tokenizers"), dir / "tokenizers", fs::copy_options::recursive);
  fs::copy(Case("prompts/qwen_small"), dir / "prompts/case");
  nlohmann::json expected =
      nlohmann::json::parse(std::ifstream(dir / "prompts/case/expected.json"));
  expected["scenarios"][0]["rounds"][1]["routing_mask"][0] = 0;
  std::ofstream(dir / "prompts/case/expected.json") << expected;
  const auto report = RunVerify(dir / "prompts/case", {});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->ok());
  fs::remove_all(dir);
}

TEST(VerifyTest, SaysWhatAFolderLacks) {
  EXPECT_EQ(RunVerify(Case("nowhere"), {}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(RunVerify(Case("tokenizers"), {}).status().code(), absl::StatusCode::kNotFound);
}

class ComparerTest : public ::testing::Test {
 protected:
  std::unique_ptr<SafetensorsFile> expected_ =
      *SafetensorsFile::Open(Case("qwen3_small/expected.safetensors"));
  VerifyReport report_;
  Comparer comparer_{*expected_, Tolerances::Numeric(), report_};
  std::vector<float> logits_ = *ToFloat32(*expected_->FindOrNull("prefill.logits"));
};

TEST_F(ComparerTest, PassesWithinToleranceOnly) {
  logits_[3] += 1e-4f;
  comparer_.Tensor("prefill.logits", logits_);
  EXPECT_TRUE(report_.ok());
  EXPECT_NEAR(report_.tensors[0].max_error, 1e-4, 1e-5);
  logits_[3] += 3e-4f;
  comparer_.Tensor("prefill.logits", logits_);
  EXPECT_FALSE(report_.ok());
}

TEST_F(ComparerTest, NanAndWrongSizeNeverPass) {
  logits_[3] = std::numeric_limits<float>::quiet_NaN();
  comparer_.Tensor("prefill.logits", logits_);
  EXPECT_FALSE(report_.ok());
  report_ = {};
  logits_.pop_back();
  comparer_.Tensor("prefill.logits", logits_);
  EXPECT_FALSE(report_.ok());
}

TEST_F(ComparerTest, AnEmptyReportIsNoPass) { EXPECT_FALSE(report_.ok()); }

}  // namespace
}  // namespace msa::compute_node

// `msa bank calibrate` and --scan against a service that says how often scans agreed.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli/cli_fixture.h"

namespace msa::cli {
namespace {

using ::testing::HasSubstr;

constexpr char kTenQuestions[] =
    "{\"id\":\"0\",\"question\":\"airports\"}\n{\"id\":\"1\",\"question\":\"rivers\"}\n"
    "{\"id\":\"2\",\"question\":\"towers\"}\n{\"id\":\"3\",\"question\":\"gardens\"}\n"
    "{\"id\":\"4\",\"question\":\"castles\"}\n{\"id\":\"5\",\"question\":\"engines\"}\n"
    "{\"id\":\"6\",\"question\":\"violins\"}\n{\"id\":\"7\",\"question\":\"lanterns\"}\n"
    "{\"id\":\"8\",\"question\":\"signals\"}\n{\"id\":\"9\",\"question\":\"meadows\"}\n";

class CalibrateTest : public CliTest {
 protected:
  const std::string questions_ = Write("questions.jsonl", kTenQuestions);
};

// The fake service's scans agree from 64 candidates on, 100 selections a question.
TEST_F(CalibrateTest, TheFewestCandidatesThatAlwaysAgreedAreTurnedOn) {
  ASSERT_EQ(Msa({"bank", "calibrate", "default", "--questions", questions_}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("        32        1,000     90.000        0.500        0.200"));
  EXPECT_THAT(out_,
              HasSubstr("coarse scans are on, 64 candidates: 1,000 of 1,000 selections of 16"));
  EXPECT_EQ(service_.last_retrieve().top_k, 16);
  const auto states = service_.coarse_states();
  ASSERT_EQ(states.size(), 2u);  // codes first, then what was measured
  EXPECT_TRUE(states[0].codes && !states[0].on);
  EXPECT_TRUE(states[1].codes && states[1].on);
  EXPECT_EQ(states[1].candidates, 64);
  EXPECT_EQ(states[1].selections, 1000);
  EXPECT_EQ(states[1].same, 1000);
  EXPECT_THAT(err_, HasSubstr("64 candidates are all parts of every shard"));  // which is empty
  ASSERT_EQ(Msa({"bank", "calibrate", "default", "--questions", questions_, "--json"}), 0);
  EXPECT_EQ(OutLines()[0]["curve"].size(), 4u);
  EXPECT_EQ(OutLines()[0]["coarse"]["on"], true);
}

TEST_F(CalibrateTest, ABankThatDoesNotPassStaysOffAndKeepsTheResult) {
  EXPECT_EQ(
      Msa({"bank", "calibrate", "default", "--questions", questions_, "--candidates", "16,32"}), 5);
  EXPECT_THAT(err_, HasSubstr("900 of 1000"));
  EXPECT_FALSE(service_.coarse_states().back().on);
  EXPECT_FALSE(service_.coarse_states().back().codes) << "it had none before";
  EXPECT_EQ(service_.coarse_states().back().same, 900);
  // Too few to tell.
  EXPECT_EQ(Msa({"bank", "calibrate", "default", "--questions", questions_, "--limit", "9"}), 5);
  EXPECT_FALSE(service_.coarse_states().back().on);
}

TEST_F(CalibrateTest, ARunThatFailsLeavesNoCodes) {
  EXPECT_EQ(Msa({"bank", "calibrate", "none", "--questions", questions_}), 3);
  EXPECT_TRUE(service_.coarse_states().empty());
  EXPECT_EQ(Msa({"bank", "calibrate", "default"}), 2);
  EXPECT_EQ(Msa({"bank", "calibrate", "default", "--off", "--codes"}), 2);
}

TEST_F(CalibrateTest, CodesCanBeKeptWithoutACalibrationAndGivenUp) {
  ASSERT_EQ(Msa({"bank", "calibrate", "default", "--codes"}), 0);
  EXPECT_THAT(out_, HasSubstr("for requests that ask"));
  EXPECT_TRUE(service_.coarse_states().back().codes);
  EXPECT_FALSE(service_.coarse_states().back().on);
  ASSERT_EQ(Msa({"bank", "calibrate", "default", "--off"}), 0);
  EXPECT_EQ(service_.coarse_states().back(), rpc::CoarseState());
}

TEST_F(CalibrateTest, ARequestChoosesItsScan) {
  ASSERT_EQ(Msa({"retrieve", "--scan", "coarse", "q"}), 0);
  EXPECT_EQ(service_.last_retrieve().scan, rpc::Scan::kCoarse);
  ASSERT_EQ(Msa({"ask", "--scan", "exact", "q"}), 0);
  EXPECT_EQ(service_.last_generate().scan, rpc::Scan::kExact);
  ASSERT_EQ(Msa({"ask", "q"}), 0);
  EXPECT_EQ(service_.last_generate().scan, rpc::Scan::kDefault);
  EXPECT_EQ(Msa({"ask", "--scan", "quick", "q"}), 2);
}

}  // namespace
}  // namespace msa::cli

// How sessions are scanned: what a bank's shards say, what a request asks, and calibrations over
// one shard and three.
#include "router/scan_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/status_macros.h"
#include "tests/router/fake_cluster.h"

namespace msa::router {
namespace {

using ::testing::HasSubstr;
using Code = absl::StatusCode;

constexpr rpc::CoarseState kOn = {.codes = true,
                                  .on = true,
                                  .candidates = 64,
                                  .top_k = 16,
                                  .selections = 1200,
                                  .same = 1200,
                                  .num_parts = 100,
                                  .next_reference = 100};

std::vector<rpc::BankState> Shards(const std::vector<rpc::CoarseState>& states,
                                   int64_t next_reference = 100) {
  std::vector<rpc::BankState> shards;
  for (const rpc::CoarseState& state : states) shards.push_back({{}, next_reference, state});
  return shards;
}

TEST(ScanPlan, AnUncalibratedBankIsScannedExactly) {
  const auto plan = PlanScan(Shards({{}, {}}), 100, {});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->CandidatesFor(16), 0);
  const auto asked = PlanScan(Shards({{}, {}}), 100, {.scan = rpc::Scan::kCoarse});
  EXPECT_EQ(asked.status().code(), Code::kFailedPrecondition);
  EXPECT_THAT(std::string(asked.status().message()), HasSubstr("msa bank calibrate"));
}

TEST(ScanPlan, CodesAloneAreForRequestsThatAsk) {
  const auto shards = Shards({{.codes = true}, {.codes = true}});
  EXPECT_EQ(PlanScan(shards, 100, {})->CandidatesFor(16), 0);
  EXPECT_EQ(PlanScan(shards, 100, {.scan = rpc::Scan::kCoarse})->CandidatesFor(16), 128);
  EXPECT_EQ(PlanScan(shards, 100, {.scan = rpc::Scan::kCoarse})->CandidatesFor(500), 128);
  // Codes on some shards are none.
  EXPECT_FALSE(PlanScan(Shards({{.codes = true}, {}}), 100, {.scan = rpc::Scan::kCoarse}).ok());
}

TEST(ScanPlan, ACalibratedBankIsScannedByCodesForAsManyPartsAsWereCompared) {
  const auto plan = PlanScan(Shards({kOn, kOn}), 100, {});
  EXPECT_EQ(plan->CandidatesFor(16), 64);
  EXPECT_EQ(plan->CandidatesFor(17), 0);
  EXPECT_EQ(PlanScan(Shards({kOn, kOn}), 100, {.scan = rpc::Scan::kExact})->CandidatesFor(1), 0);
  EXPECT_EQ(PlanScan(Shards({kOn, kOn}), 100, {.scan = rpc::Scan::kCoarse})->CandidatesFor(17), 64);
}

TEST(ScanPlan, ShardsThatDifferAreScannedExactly) {
  rpc::CoarseState other = kOn;
  other.candidates = 32;
  EXPECT_EQ(PlanScan(Shards({kOn, other}), 100, {})->CandidatesFor(16), 0);
  EXPECT_EQ(PlanScan(Shards({kOn, {}}), 100, {})->CandidatesFor(16), 0);
}

TEST(ScanPlan, ACalibrationEndsWhenHalfOfTheBankCameSince) {
  EXPECT_EQ(PlanScan(Shards({kOn}, 200), 200, {})->CandidatesFor(16), 64);
  EXPECT_EQ(PlanScan(Shards({kOn}, 201), 201, {})->CandidatesFor(16), 0);
  // Replacing counts too, though the bank is no larger.
  EXPECT_EQ(PlanScan(Shards({kOn}, 151), 100, {})->CandidatesFor(16), 0);
  // Who asks gets it.
  EXPECT_EQ(PlanScan(Shards({kOn}, 900), 900, {.scan = rpc::Scan::kCoarse})->CandidatesFor(16), 64);
}

TEST(ScanPlan, ComparisonsAreLimited) {
  const auto shards = Shards({kOn});
  const auto compare = [&](std::vector<int32_t> candidates) {
    return PlanScan(shards, 100, {.compare_candidates = std::move(candidates)}).status().code();
  };
  EXPECT_EQ(compare({1, 512}), Code::kOk);
  EXPECT_EQ(compare({0}), Code::kInvalidArgument);
  EXPECT_EQ(compare({513}), Code::kInvalidArgument);
  EXPECT_EQ(compare(std::vector<int32_t>(17, 5)), Code::kInvalidArgument);
  const auto plan = PlanScan(shards, 100, {.compare_candidates = {5}});
  EXPECT_EQ(plan->CandidatesFor(1), 0) << "the answer is the exact one";
}

TEST(ScanPlan, OnTakesACalibrationThatPassed) {
  EXPECT_TRUE(CheckCalibration("b", kOn).ok());
  EXPECT_TRUE(CheckCalibration("b", {.codes = true}).ok());
  const auto refused = [](auto change) {
    rpc::CoarseState state = kOn;
    change(state);
    return CheckCalibration("b", state).code();
  };
  EXPECT_EQ(refused([](auto& s) { s.same = 1199; }), Code::kOk);
  EXPECT_EQ(refused([](auto& s) { s.same = 1198; }), Code::kFailedPrecondition);
  EXPECT_EQ(refused([](auto& s) { s.selections = s.same = 999; }), Code::kFailedPrecondition);
  EXPECT_EQ(refused([](auto& s) { s.top_k = 0; }), Code::kFailedPrecondition);
  EXPECT_EQ(refused([](auto& s) { s.selections = s.same = INT64_MAX; }), Code::kOk);
  EXPECT_EQ(refused([](auto& s) { s.same = s.selections + 1; }), Code::kFailedPrecondition);
  EXPECT_EQ(refused([](auto& s) { s.same = INT64_MIN; }), Code::kFailedPrecondition);
}

// The comparison of one question.
std::vector<rpc::ScanComparison> Compare(FakeCluster& cluster, const std::string& question,
                                         std::vector<int32_t> candidates) {
  rpc::RetrieveRequest request;
  request.question = question;
  request.limit = 10;
  request.compare_candidates = std::move(candidates);
  const auto reply = cluster.router->Retrieve(cluster.ctx, request);
  EXPECT_TRUE(reply.ok()) << reply.status();
  return reply.ok() ? reply->comparisons : std::vector<rpc::ScanComparison>();
}

TEST(Calibration, ComparesTheMergedSelectionsOfAllShards) {
  for (const int num_shards : {1, 3}) {
    FakeCluster cluster(num_shards);
    for (auto& shard : cluster.shards) shard.candidates_needed = 8;
    cluster.Add(SomeDocuments(60));
    rpc::RetrieveRequest request;
    request.question = "word3 word9";
    request.limit = 10;
    request.compare_candidates = {4, 8};
    EXPECT_EQ(cluster.router->Retrieve(cluster.ctx, request).status().code(),
              Code::kFailedPrecondition);
    ASSERT_TRUE(
        cluster.router->SetCoarse(cluster.ctx, "default", {.codes = true, .candidates = 8}).ok());
    const auto curve = Compare(cluster, "word3 word9", {4, 8});
    ASSERT_EQ(curve.size(), 2u);
    const auto layers =
        static_cast<int64_t>(cluster.nodes[0]->model.default_bank.router_layers.size());
    EXPECT_EQ(curve[0].candidates, 4);
    EXPECT_EQ(curve[0].selections, layers);
    EXPECT_EQ(curve[0].same, 0);
    EXPECT_EQ(curve[1].same, layers);
    EXPECT_GT(curve[1].exact_ms, 0);
    EXPECT_GT(curve[1].coarse_ms, 0);
  }
}

TEST(Calibration, IsKeptOnEveryShardWithTheBankItWasMadeOn) {
  FakeCluster cluster(3);
  cluster.Add(SomeDocuments(60));
  const auto kept = cluster.router->SetCoarse(cluster.ctx, "default", kOn);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_GE(kept->num_parts, 60);
  EXPECT_EQ(kept->next_reference, kept->num_parts);
  for (auto& shard : cluster.shards) {
    EXPECT_EQ((*shard.ListBanks(cluster.ctx))[0].coarse, *kept);
  }
  rpc::CoarseState failed = kOn;
  failed.same = 1000;
  EXPECT_EQ(cluster.router->SetCoarse(cluster.ctx, "default", failed).status().code(),
            Code::kFailedPrecondition);
  EXPECT_EQ(cluster.router->SetCoarse(cluster.ctx, "none", kOn).status().code(), Code::kNotFound);
}

// The best document of a question, however it is scanned.
std::string Best(FakeCluster& cluster, rpc::Scan scan) {
  rpc::RetrieveRequest request;
  request.question = "word3 word9";
  request.limit = 10;
  request.scan = scan;
  const auto reply = cluster.router->Retrieve(cluster.ctx, request);
  return reply.ok() ? reply->documents.at(0).document_id
                    : std::string(absl::StatusCodeToString(reply.status().code()));
}

TEST(Calibration, DecidesForRequestsThatDoNotChoose) {
  // Selections show which scan was made: coarse ones of this shard lose the best part. Ranks do
  // not, so the selections are asked for.
  FakeCluster cluster(1);
  cluster.shards[0].candidates_needed = 1000;
  cluster.Add(SomeDocuments(60));
  const auto selected = [&](rpc::Scan scan) -> absl::StatusOr<int64_t> {
    MSA_ASSIGN_OR_RETURN(const rpc::SessionInfo session,
                         cluster.router->OpenSession(cluster.ctx, "default", {.scan = scan}));
    const std::vector<float> queries(session.bank.routing.query_width(), 1.0f);
    MSA_ASSIGN_OR_RETURN(const rpc::Selection selection,
                         cluster.router->Route(cluster.ctx, session.session_id, 0, 3, 10, queries));
    return selection.parts[0].scored.reference;
  };
  const int64_t best = *selected(rpc::Scan::kDefault);
  EXPECT_EQ(selected(rpc::Scan::kCoarse).status().code(), Code::kFailedPrecondition);
  ASSERT_TRUE(cluster.router->SetCoarse(cluster.ctx, "default", {.codes = true}).ok());
  EXPECT_EQ(*selected(rpc::Scan::kDefault), best);
  EXPECT_NE(*selected(rpc::Scan::kCoarse), best);
  ASSERT_TRUE(cluster.router->SetCoarse(cluster.ctx, "default", kOn).ok());
  EXPECT_NE(*selected(rpc::Scan::kDefault), best);
  EXPECT_EQ(*selected(rpc::Scan::kExact), best);
  EXPECT_EQ(Best(cluster, rpc::Scan::kCoarse), Best(cluster, rpc::Scan::kExact));
}

}  // namespace
}  // namespace msa::router

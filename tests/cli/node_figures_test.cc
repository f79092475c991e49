#include "cli/node_figures.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/cli/scraped.h"

namespace msa::cli {
namespace {

class NodeFiguresTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto exporter = monitoring::Exporter::Start("127.0.0.1:0", "compute node", "1");
    ASSERT_TRUE(exporter.ok()) << exporter.status();
    exporter_ = *std::move(exporter);
    figures_ = MakeNodeFigures(exporter_.get());
  }

  double Told(const std::string& series) {
    const auto all = Scraped(*exporter_);
    EXPECT_TRUE(all.contains(series)) << series;
    return all.contains(series) ? all.at(series) : -1;
  }

  std::unique_ptr<monitoring::Exporter> exporter_;
  std::unique_ptr<NodeFigures> figures_;
};

rpc::DoneEvent Answer() {
  rpc::DoneEvent done;
  done.finish_reason = "stop";
  done.usage.prompt_tokens = 300;
  done.usage.generated_tokens = 20;
  done.timings.total = 1500;
  done.timings.queue = 700;
  done.timings.route = 30;
  done.timings.fetch = 40;
  done.timings.prefill = 200;
  done.timings.decode = 400;
  done.timings.first_token = 1100;
  return done;
}

TEST_F(NodeFiguresTest, AnAnswerIsCountedOnceInSeconds) {
  figures_->OnAnswered(Answer());
  const struct {
    const char* name;
    const char* labels;
    double seconds;
  } kTimes[] = {{"msa_e2e_question_latency", "{method=\"Generate\"}", 1.5},
                {"msa_question_queue_time", "{method=\"Generate\"}", 0.7},
                {"msa_question_route_time", "{method=\"Generate\"}", 0.03},
                {"msa_question_fetch_time", "{method=\"Generate\"}", 0.04},
                {"msa_question_prefill_time", "{method=\"Generate\"}", 0.2},
                {"msa_question_decode_time", "", 0.4},
                {"msa_time_to_first_token", "", 1.1},
                {"msa_time_per_output_token", "", 0.02}};
  for (const auto& [name, labels, seconds] : kTimes) {
    EXPECT_DOUBLE_EQ(Told(std::string(name) + "_seconds_sum" + labels), seconds);
    EXPECT_EQ(Told(std::string(name) + "_seconds_count" + labels), 1) << name;
  }
  EXPECT_EQ(Told("msa_prompt_tokens_total"), 300);
  EXPECT_EQ(Told("msa_generation_tokens_total"), 20);
  EXPECT_EQ(Told("msa_questions_total{finish_reason=\"stop\"}"), 1);
  EXPECT_EQ(Told("msa_e2e_question_latency_seconds_count{method=\"Retrieve\"}"), 0);
}

TEST_F(NodeFiguresTest, AnAnswerWithoutTextHasNoFirstToken) {
  rpc::DoneEvent done = Answer();
  done.finish_reason = "no_retrieval";
  done.usage.generated_tokens = 0;
  done.timings.first_token = 0;
  figures_->OnAnswered(done);
  EXPECT_EQ(Told("msa_time_to_first_token_seconds_count"), 0);
  EXPECT_EQ(Told("msa_time_per_output_token_seconds_count"), 0);
  EXPECT_EQ(Told("msa_questions_total{finish_reason=\"no_retrieval\"}"), 1);
}

TEST_F(NodeFiguresTest, QuestionsWithoutAnswerAreCountedByWhoseDoingItWas) {
  figures_->OnUnanswered(absl::StatusCode::kCancelled);
  figures_->OnUnanswered(absl::StatusCode::kDeadlineExceeded);
  figures_->OnUnanswered(absl::StatusCode::kUnavailable);
  EXPECT_EQ(Told("msa_questions_total{finish_reason=\"abort\"}"), 2);
  EXPECT_EQ(Told("msa_questions_total{finish_reason=\"error\"}"), 1);
  EXPECT_EQ(Told("msa_e2e_question_latency_seconds_count{method=\"Generate\"}"), 0);
}

TEST_F(NodeFiguresTest, WhatIsRetrievedIsTimedApart) {
  rpc::RetrieveReply reply;
  reply.timings.total = 80;
  reply.timings.route = 60;
  figures_->OnRetrieved(reply);
  EXPECT_DOUBLE_EQ(Told("msa_e2e_question_latency_seconds_sum{method=\"Retrieve\"}"), 0.08);
  EXPECT_DOUBLE_EQ(Told("msa_question_route_time_seconds_sum{method=\"Retrieve\"}"), 0.06);
  EXPECT_EQ(Told("msa_e2e_question_latency_seconds_count{method=\"Generate\"}"), 0);
}

TEST_F(NodeFiguresTest, DocumentsAreCountedWithTheirTokens) {
  figures_->OnEncoded(120, absl::Milliseconds(30));
  figures_->OnEncoded(80, absl::Seconds(2));
  EXPECT_EQ(Told("msa_encoded_tokens_total"), 200);
  EXPECT_EQ(Told("msa_document_encode_time_seconds_count"), 2);
  EXPECT_EQ(Told("msa_document_encode_time_seconds_bucket{le=\"0.05\"}"), 1);
}

TEST(NodeFigures, NobodyCountsWithoutAnExporter) { EXPECT_EQ(MakeNodeFigures(nullptr), nullptr); }

}  // namespace
}  // namespace msa::cli

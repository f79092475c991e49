#include "monitoring/exporter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace msa::monitoring {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

class ExporterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto exporter = Exporter::Start("127.0.0.1:0", "router", "1.2.3");
    ASSERT_TRUE(exporter.ok()) << exporter.status();
    exporter_ = *std::move(exporter);
  }

  std::vector<std::string> Lines() {
    httplib::Client client("127.0.0.1", exporter_->port());
    const auto reply = client.Get("/metrics");
    EXPECT_TRUE(reply && reply->status == 200);
    return absl::StrSplit(reply->body, '\n');
  }

  std::unique_ptr<Exporter> exporter_;
};

TEST_F(ExporterTest, TellsWhatRunsAndWhetherItServes) {
  EXPECT_THAT(Lines(), Contains("msa_build_info{role=\"router\",version=\"1.2.3\"} 1"));
  EXPECT_THAT(Lines(), Contains("msa_serving 0"));
  exporter_->SetServing(true);
  EXPECT_THAT(Lines(), Contains("msa_serving 1"));
  exporter_->SetServing(false);
  EXPECT_THAT(Lines(), Contains("msa_serving 0"));
}

TEST_F(ExporterTest, CountsCallsByCodeAndHowLongTheyTook) {
  for (int i = 0; i < 3; ++i) exporter_->OnCallBegun("msa.v1.S", "Get");
  exporter_->OnCallEnded("msa.v1.S", "Get", absl::StatusCode::kOk, absl::Milliseconds(30));
  exporter_->OnCallEnded("msa.v1.S", "Get", absl::StatusCode::kNotFound, absl::Seconds(2));
  const auto lines = Lines();
  const std::string call = "grpc_method=\"Get\",grpc_service=\"msa.v1.S\"";
  EXPECT_THAT(lines, Contains(absl::StrCat("grpc_server_started_total{", call, "} 3")));
  for (const char* code : {"OK", "NotFound"}) {
    EXPECT_THAT(lines, Contains(absl::StrCat("grpc_server_handled_total{grpc_code=\"", code, "\",",
                                             call, "} 1")));
  }
  for (const auto& [seconds, count] : {std::pair{"0.025", 0}, {"0.05", 1}, {"1", 1}, {"2.5", 2}}) {
    EXPECT_THAT(lines, Contains(absl::StrCat("grpc_server_handling_seconds_bucket{", call, ",le=\"",
                                             seconds, "\"} ", count)));
  }
  EXPECT_THAT(lines, Contains(absl::StrCat("grpc_server_handling_seconds_count{", call, "} 2")));
}

TEST_F(ExporterTest, CallsOfManyThreadsAreAllCountedWhereTheyBelong) {
  constexpr int kThreads = 4, kCalls = 500;
  const std::vector<std::pair<std::string, absl::StatusCode>> kinds = {
      {"Get", absl::StatusCode::kOk},
      {"Get", absl::StatusCode::kUnauthenticated},
      {"GetAll", absl::StatusCode::kOk}};
  std::vector<std::thread> callers;
  for (int i = 0; i < kThreads; ++i) {
    callers.emplace_back([&] {
      for (int call = 0; call < kCalls; ++call) {
        for (const auto& [method, code] : kinds) {
          exporter_->OnCallBegun("s", method);
          exporter_->OnCallEnded("s", method, code, absl::ZeroDuration());
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  const auto lines = Lines();
  const auto count = [&](const std::string& name, const std::string& labels, int calls) {
    EXPECT_THAT(lines, Contains(absl::StrCat(name, "{", labels, "grpc_service=\"s\"} ", calls)));
  };
  count("grpc_server_started_total", "grpc_method=\"Get\",", 2 * kThreads * kCalls);
  count("grpc_server_started_total", "grpc_method=\"GetAll\",", kThreads * kCalls);
  count("grpc_server_handling_seconds_count", "grpc_method=\"Get\",", 2 * kThreads * kCalls);
  for (const char* code : {"OK", "Unauthenticated"}) {
    count("grpc_server_handled_total",
          absl::StrCat("grpc_code=\"", code, "\",grpc_method=\"Get\","), kThreads * kCalls);
  }
}

TEST_F(ExporterTest, SpellsCodesAsOtherServersDo) {
  exporter_->OnCallEnded("s", "m", absl::StatusCode::kCancelled, absl::ZeroDuration());
  exporter_->OnCallEnded("s", "m", absl::StatusCode::kDeadlineExceeded, absl::ZeroDuration());
  EXPECT_THAT(Lines(), Contains(HasSubstr("grpc_code=\"Canceled\"")));
  EXPECT_THAT(Lines(), Contains(HasSubstr("grpc_code=\"DeadlineExceeded\"")));
}

TEST_F(ExporterTest, AsksTheSourceEachTimeUntilItIsReplaced) {
  auto asked = std::make_unique<int>(0);
  exporter_->SetSource([&]() -> std::vector<Figure> {
    ++*asked;
    return {{"msa_a", "of banks", Figure::Kind::kGauge, {{{{"bank", "x\"y\n"}}, 2.5}}},
            {"msa_b_total", "grows", Figure::Kind::kCounter, {{{}, static_cast<double>(*asked)}}},
            {"msa_none", "of no bank", Figure::Kind::kGauge, {}}};
  });
  EXPECT_THAT(Lines(), Contains("msa_a{bank=\"x\\\"y\\n\"} 2.5"));
  const auto lines = Lines();
  EXPECT_THAT(lines, Contains("# TYPE msa_a gauge"));
  EXPECT_THAT(lines, Contains("# TYPE msa_b_total counter"));
  EXPECT_THAT(lines, Contains("msa_b_total 2"));
  EXPECT_THAT(lines, Not(Contains(HasSubstr("msa_none"))));
  exporter_->SetSource(nullptr);
  asked.reset();  // a source that is asked again would use it
  EXPECT_THAT(Lines(), Not(Contains(HasSubstr("msa_a"))));
}

TEST_F(ExporterTest, CountsWhatIsAddedUnderItsNameAndLabels) {
  Counter& tokens = exporter_->AddCounter({"msa_tokens_total", "Tokens"});
  Counter& hits = exporter_->AddCounter({"msa_lookups_total", "By result", {{"result", "hit"}}});
  exporter_->AddCounter({"msa_lookups_total", "By result", {{"result", "miss"}}});
  Histogram& took = exporter_->AddHistogram({"msa_took_seconds", "How long", {{"stage", "a"}}});
  tokens.Add(40);
  tokens.Add(2);
  hits.Add(1);
  exporter_->AddCounter({"msa_lookups_total", "By result", {{"result", "hit"}}}).Add(1);
  took.Observe(absl::Milliseconds(3));
  took.Observe(absl::Minutes(2));
  took.Observe(absl::Hours(1));
  const auto lines = Lines();
  EXPECT_THAT(lines, Contains("msa_tokens_total 42"));
  EXPECT_THAT(lines, Contains("# HELP msa_tokens_total Tokens"));
  EXPECT_THAT(lines, Contains("msa_lookups_total{result=\"hit\"} 2"));
  EXPECT_THAT(lines, Contains("msa_lookups_total{result=\"miss\"} 0"));
  for (const auto& [bound, count] :
       {std::pair{"0.0025", 0}, {"0.005", 1}, {"300", 2}, {"+Inf", 3}}) {
    EXPECT_THAT(lines, Contains(absl::StrCat("msa_took_seconds_bucket{stage=\"a\",le=\"", bound,
                                             "\"} ", count)));
  }
}

TEST_F(ExporterTest, CodesAreToldOnceTheyWereCounted) {
  CodeCounter& asked = exporter_->AddCodeCounter({"msa_asked_total", "By code", {{"shard", "a"}}});
  EXPECT_THAT(Lines(), Not(Contains(HasSubstr("msa_asked_total"))));
  asked.Count(absl::StatusCode::kUnavailable);
  asked.Count(absl::StatusCode::kUnavailable);
  EXPECT_THAT(Lines(), Contains("msa_asked_total{code=\"Unavailable\",shard=\"a\"} 2"));
}

TEST_F(ExporterTest, ASourceThatIsReplacedIsNotBeingAskedAnyMore) {
  std::atomic<bool> inside = false, may_end = false, ended = false;
  exporter_->SetSource([&]() -> std::vector<Figure> {
    inside = true;
    while (!may_end) std::this_thread::yield();
    ended = true;
    return {};
  });
  std::thread asking([&] { Lines(); });
  while (!inside) std::this_thread::yield();
  std::thread replacing([&] {
    exporter_->SetSource(nullptr);
    EXPECT_TRUE(ended);
  });
  may_end = true;
  replacing.join();
  asking.join();
}

TEST_F(ExporterTest, APortInUseIsSaidWithTheAddress) {
  const std::string address = absl::StrCat("127.0.0.1:", exporter_->port());
  const auto second = Exporter::Start(address, "router", "1");
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address));
  exporter_.reset();
  EXPECT_TRUE(Exporter::Start(address, "router", "1").ok());
}

TEST_F(ExporterTest, OtherPathsAreNotFound) {
  httplib::Client client("127.0.0.1", exporter_->port());
  EXPECT_EQ(client.Get("/")->status, 404);
}

}  // namespace
}  // namespace msa::monitoring

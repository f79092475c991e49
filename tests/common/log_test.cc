#include "common/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

namespace msa {
namespace {

constexpr char kTime[] = "2026-11-23T04:20:11.123Z";

TEST(LogTest, TextQuotesOnlyWhatNeedsIt) {
  EXPECT_EQ(
      FormatLogLine(false, kTime, LogLevel::kWarning, "document added",
                    {{"bank", "default"}, {"id", "a b"}, {"tokens", 812}, {"ok", true}}, "9f"),
      "2026-11-23T04:20:11.123Z warning document added  bank=default id=\"a b\" tokens=812 "
      "ok=true request_id=9f");
}

TEST(LogTest, JsonKeepsTypesAndSurvivesHostileText) {
  const std::string line = FormatLogLine(
      true, kTime, LogLevel::kInfo, "line\nbreak",
      {{"id", std::string("\xFF\"\n")}, {"tokens", 812}, {"share", 0.5}, {"ok", false}}, "");
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const nlohmann::json json = nlohmann::json::parse(line);
  EXPECT_EQ(json["level"], "info");
  EXPECT_EQ(json["message"], "line\nbreak");
  EXPECT_EQ(json["id"], "\uFFFD\"\n");
  EXPECT_EQ(json["tokens"], 812);
  EXPECT_EQ(json["share"], 0.5);
  EXPECT_EQ(json["ok"], false);
  EXPECT_FALSE(json.contains("request_id"));
}

TEST(LogTest, ARequestIdIsItsThreadsAndNests) {
  EXPECT_EQ(CurrentRequestId(), "");
  const ScopedRequestId call("9f");
  {
    const ScopedRequestId shared("");
    EXPECT_EQ(CurrentRequestId(), "");
  }
  EXPECT_EQ(CurrentRequestId(), "9f");
  std::thread([] { EXPECT_EQ(CurrentRequestId(), ""); }).join();
}

TEST(LogTest, ALevelThatIsNoneListsThem) {
  EXPECT_EQ(ParseLogLevel("error").value(), LogLevel::kError);
  const absl::Status status = ParseLogLevel("loud").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("debug, info, warning or error"), absl::string_view::npos);
}

}  // namespace
}  // namespace msa

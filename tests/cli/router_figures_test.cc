#include "cli/router_figures.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "tests/cli/scraped.h"

namespace msa::cli {
namespace {

TEST(RouterFigures, ShardsAreToldByTheirNamesAndDocumentsByTheirCodes) {
  auto exporter = monitoring::Exporter::Start("127.0.0.1:0", "router", "1");
  ASSERT_TRUE(exporter.ok()) << exporter.status();
  rpc::ShardMap map;
  map.shards = {{"a", "host:1"}, {"b", "host:2"}};
  const auto figures = MakeRouterFigures(exporter->get(), map);
  figures->OnShardAsked(0, absl::StatusCode::kOk, absl::Milliseconds(3));
  figures->OnShardAsked(1, absl::StatusCode::kOk, absl::Milliseconds(4));
  figures->OnShardAsked(1, absl::StatusCode::kUnavailable, absl::Seconds(30));
  figures->OnDocument(absl::StatusCode::kOk);
  figures->OnDocument(absl::StatusCode::kOk);
  figures->OnDocument(absl::StatusCode::kInvalidArgument);
  auto told = Scraped(**exporter);
  EXPECT_EQ(told["msa_shard_requests_total{code=\"OK\",shard=\"a\"}"], 1);
  EXPECT_EQ(told["msa_shard_requests_total{code=\"OK\",shard=\"b\"}"], 1);
  EXPECT_EQ(told["msa_shard_requests_total{code=\"Unavailable\",shard=\"b\"}"], 1);
  EXPECT_FALSE(told.contains("msa_shard_requests_total{code=\"Unavailable\",shard=\"a\"}"));
  EXPECT_DOUBLE_EQ(told["msa_shard_request_seconds_sum{shard=\"a\"}"], 0.003);
  EXPECT_DOUBLE_EQ(told["msa_shard_request_seconds_sum{shard=\"b\"}"], 30.004);
  EXPECT_EQ(told["msa_shard_request_seconds_count{shard=\"b\"}"], 2);
  EXPECT_EQ(told["msa_document_adds_total{code=\"OK\"}"], 2);
  EXPECT_EQ(told["msa_document_adds_total{code=\"InvalidArgument\"}"], 1);
}

TEST(RouterFigures, NobodyCountsWithoutAnExporter) {
  EXPECT_EQ(MakeRouterFigures(nullptr, rpc::ShardMap::Embedded()), nullptr);
}

}  // namespace
}  // namespace msa::cli

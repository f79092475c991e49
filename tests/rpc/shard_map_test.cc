#include "rpc/shard_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace msa::rpc {
namespace {

using ::testing::HasSubstr;

constexpr char kTwo[] = R"({"version": 1, "slots": 1024,
  "shards": [{"name": "a", "address": "h1:7071"}, {"name": "b", "address": "h2:7071"}],
  "compute_nodes": [{"name": "c", "address": "h3:7072"}], "router": "h4:7070"})";

std::string ErrorOf(const std::string& json) {
  return std::string(ShardMap::Parse(json).status().message());
}

TEST(ShardMap, ReadsEveryField) {
  const auto map = ShardMap::Parse(kTwo);
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(map->slots, 1024);
  EXPECT_EQ(map->shards, (std::vector<Endpoint>{{"a", "h1:7071"}, {"b", "h2:7071"}}));
  EXPECT_EQ(map->compute_nodes, (std::vector<Endpoint>{{"c", "h3:7072"}}));
  EXPECT_EQ(map->router, "h4:7070");
  EXPECT_EQ(*map->FindShard("b"), 1);
  EXPECT_THAT(std::string(map->FindShard("z").status().message()), HasSubstr("a, b"));
}

TEST(ShardMap, SaysAShardsPlace) {
  const ShardMap map = *ShardMap::Parse(kTwo);
  EXPECT_EQ(ToString(map.PlaceOf(1)), "shard 2 of 2 over 1024 slots");
  EXPECT_EQ(map.PlaceOf(1), (ShardPlace{1, 2, 1024}));
  EXPECT_FALSE(map.PlaceOf(1) == map.PlaceOf(0));
  EXPECT_FALSE(map.PlaceOf(1) == (ShardPlace{1, 2, 512}));
  EXPECT_EQ((ShardPlace{0, 1, 16}), ShardPlace()) << "one shard has every document";
}

TEST(ShardMap, SlotIsXxh3OfTheIdModuloSlots) {
  const ShardMap map = *ShardMap::Parse(kTwo);
  for (const std::string id : {"", "a", "doc-17", "ünïcode"}) {
    EXPECT_EQ(map.SlotOf(id), static_cast<int32_t>(XXH3_64bits(id.data(), id.size()) % 1024));
  }
  // Written down once: a changed hash would lose documents from view.
  EXPECT_EQ(map.SlotOf("doc-17"), 307);
}

// The header's sentence, literally: shard i has the slots from ceil(i·s/n) to ceil((i+1)·s/n).
TEST(ShardMap, ShardsHaveContiguousSlotRanges) {
  for (int shards : {1, 2, 3, 7, 16, 1000}) {
    ShardMap map;
    map.shards.resize(shards);
    for (int i = 0; i < 3000; ++i) {
      const std::string id = absl::StrCat("id", i);
      const int slot = map.SlotOf(id);
      int owner = 0;
      while (slot >= ((owner + 1) * 1024 + shards - 1) / shards) ++owner;
      ASSERT_EQ(map.ShardOf(id), owner) << id << " of " << shards;
    }
  }
}

TEST(ShardMap, EmbeddedHasOneShard) {
  const ShardMap map = ShardMap::Embedded();
  EXPECT_EQ(map.shards.size(), 1u);
  EXPECT_EQ(map.ShardOf("anything"), 0);
}

TEST(ShardMap, ErrorsNameTheField) {
  EXPECT_THAT(ErrorOf("[1]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(ErrorOf("{"), HasSubstr("not a JSON object"));
  EXPECT_THAT(ErrorOf(R"({"shards": []})"), HasSubstr("version"));
  EXPECT_THAT(ErrorOf(R"({"version": 2})"), HasSubstr("version"));
  EXPECT_THAT(ErrorOf(R"({"version": 1})"), HasSubstr("shards"));
  EXPECT_THAT(ErrorOf(R"({"version": 1, "shard": []})"), HasSubstr("unknown field \"shard\""));
  EXPECT_THAT(ErrorOf(R"({"version": 1, "slots": 0})"), HasSubstr("slots"));
  EXPECT_THAT(ErrorOf(R"({"version": 1, "shards": [{"name": "a"}]})"),
              HasSubstr("shards[0] has no \"address\""));
  EXPECT_THAT(ErrorOf(R"({"version": 1, "shards": [{"name": "a", "address": "host"}]})"),
              HasSubstr("host:port"));
  EXPECT_THAT(ErrorOf(R"({"version": 1, "shards": [{"name": "a", "address": "h:70000"}]})"),
              HasSubstr("65535"));
  EXPECT_THAT(ErrorOf(R"({"version": 1, "shards": [{"name": "a", "address": "h:1"},
                         {"name": "a", "address": "h:2"}]})"),
              HasSubstr("'a' is used twice"));
  EXPECT_THAT(ErrorOf(R"({"version": 1, "shards": [{"name": "a", "address": "h:1"},
                         {"name": "b", "address": "h:1"}]})"),
              HasSubstr("'h:1' is used twice"));
  EXPECT_THAT(ErrorOf(R"({"version": 1, "slots": 1, "shards": [{"name": "a", "address": "h:1"},
                         {"name": "b", "address": "h:2"}]})"),
              HasSubstr("only 1 slots"));
}

TEST(ShardMap, LoadNamesTheFile) {
  EXPECT_EQ(ShardMap::Load("/nowhere/map.json").status().code(), absl::StatusCode::kNotFound);
  const std::string path = ::testing::TempDir() + "/shard_map_test.json";
  std::ofstream(path) << "{}";
  EXPECT_THAT(std::string(ShardMap::Load(path).status().message()), HasSubstr(path));
  std::ofstream(path) << kTwo;
  EXPECT_TRUE(ShardMap::Load(path).ok());
  const absl::Status folder = ShardMap::Load(::testing::TempDir()).status();
  EXPECT_EQ(folder.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(folder.message()), HasSubstr(": it is a folder"));
}

}  // namespace
}  // namespace msa::rpc

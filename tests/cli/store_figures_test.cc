#include "cli/store_figures.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace msa::cli {
namespace {

using memory_node::Table;

TEST(StoreFigures, EachCounterHasItsName) {
  memory_node::StoreUsage usage;
  auto& content = usage.tables[static_cast<int>(Table::kContent)];
  content = {.level0_files = 1,
             .sst_bytes = 2,
             .live_data_bytes = 3,
             .blob_bytes = 4,
             .blob_garbage_bytes = 5,
             .memtable_bytes = 6,
             .pending_compaction_bytes = 7};
  usage.tables[static_cast<int>(Table::kText)].level0_files = 20;
  usage.block_cache_bytes = 8;
  usage.running_compactions = 9;
  usage.running_flushes = 10;
  usage.background_errors = 11;
  usage.write_stopped = 1;
  usage.delayed_write_bytes_per_second = 12;
  usage.times_stopped = 13;
  usage.times_delayed = 14;
  std::map<std::string, double> told;  // by name and the one label's value
  for (const monitoring::Figure& figure : FiguresOf(usage)) {
    EXPECT_EQ(figure.kind == monitoring::Figure::Kind::kCounter, figure.name.ends_with("_total"));
    EXPECT_FALSE(figure.help.empty());
    for (const monitoring::Sample& sample : figure.samples) {
      const std::string of = sample.labels.empty() ? "" : " " + sample.labels[0].second;
      EXPECT_TRUE(told.emplace(figure.name + of, sample.value).second) << figure.name << of;
    }
  }
  const std::map<std::string, double> expected = {
      {"rocksdb_num_files_at_level0 content", 1},
      {"rocksdb_num_files_at_level0 text", 20},
      {"rocksdb_num_files_at_level0 meta", 0},
      {"rocksdb_live_sst_files_size_bytes content", 2},
      {"rocksdb_estimate_live_data_size_bytes content", 3},
      {"rocksdb_live_blob_file_size_bytes content", 4},
      {"rocksdb_live_blob_file_garbage_size_bytes content", 5},
      {"rocksdb_cur_size_all_mem_tables_bytes content", 6},
      {"rocksdb_estimate_pending_compaction_bytes content", 7},
      {"rocksdb_block_cache_usage_bytes", 8},
      {"rocksdb_num_running_compactions", 9},
      {"rocksdb_num_running_flushes", 10},
      {"rocksdb_background_errors_total", 11},
      {"rocksdb_is_write_stopped", 1},
      {"rocksdb_actual_delayed_write_rate_bytes_per_second", 12},
      {"rocksdb_write_stalls_total stopped", 13},
      {"rocksdb_write_stalls_total delayed", 14}};
  for (const auto& [name, value] : expected) {
    ASSERT_TRUE(told.contains(name)) << name;
    EXPECT_EQ(told[name], value) << name;
  }
}

}  // namespace
}  // namespace msa::cli

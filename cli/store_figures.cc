#include "cli/store_figures.h"

#include <cstdint>
#include <string>
#include <utility>

namespace msa::cli {
namespace {

using memory_node::StoreUsage;
using monitoring::Figure;
using Kind = Figure::Kind;

struct TableField {
  const char* name;
  const char* help;
  int64_t StoreUsage::OfTable::*value;
};

constexpr TableField kOfTable[] = {
    {"rocksdb_num_files_at_level0", "Files that are not sorted into the others yet",
     &StoreUsage::OfTable::level0_files},
    {"rocksdb_live_sst_files_size_bytes", "SST files in use", &StoreUsage::OfTable::sst_bytes},
    {"rocksdb_estimate_live_data_size_bytes", "Of SST files, what is not deleted or replaced",
     &StoreUsage::OfTable::live_data_bytes},
    {"rocksdb_live_blob_file_size_bytes", "Files of large values, beside SST files",
     &StoreUsage::OfTable::blob_bytes},
    {"rocksdb_live_blob_file_garbage_size_bytes", "Of these, what is deleted or replaced",
     &StoreUsage::OfTable::blob_garbage_bytes},
    {"rocksdb_cur_size_all_mem_tables_bytes", "In the log and in no file yet",
     &StoreUsage::OfTable::memtable_bytes},
    {"rocksdb_estimate_pending_compaction_bytes",
     "To be rewritten until all levels have their size",
     &StoreUsage::OfTable::pending_compaction_bytes},
};

struct StoreField {
  const char* name;
  const char* help;
  Kind kind;
  int64_t StoreUsage::*value;
};

constexpr StoreField kOfStore[] = {
    {"rocksdb_is_write_stopped", "1 while no write goes on until files are compacted or flushed",
     Kind::kGauge, &StoreUsage::write_stopped},
    {"rocksdb_actual_delayed_write_rate_bytes_per_second",
     "What writes are held to until files are compacted; 0 while they are not", Kind::kGauge,
     &StoreUsage::delayed_write_bytes_per_second},
    {"rocksdb_block_cache_usage_bytes", "Blocks of files kept in memory", Kind::kGauge,
     &StoreUsage::block_cache_bytes},
    {"rocksdb_num_running_compactions", "Compactions under way", Kind::kGauge,
     &StoreUsage::running_compactions},
    {"rocksdb_num_running_flushes", "Flushes under way", Kind::kGauge,
     &StoreUsage::running_flushes},
    {"rocksdb_background_errors_total", "Flushes and compactions that failed", Kind::kCounter,
     &StoreUsage::background_errors},
};

constexpr std::pair<const char*, int64_t StoreUsage::*> kStalls[] = {
    {"delayed", &StoreUsage::times_delayed},
    {"stopped", &StoreUsage::times_stopped},
};

}  // namespace

std::vector<Figure> FiguresOf(const StoreUsage& usage) {
  std::vector<Figure> figures;
  for (const TableField& field : kOfTable) {
    Figure& figure = figures.emplace_back(Figure{field.name, field.help, Kind::kGauge, {}});
    for (int i = 0; i < memory_node::kNumTables; ++i) {
      const std::string table(memory_node::TableName(static_cast<memory_node::Table>(i)));
      figure.samples.push_back(
          {{{"column_family", table}}, static_cast<double>(usage.tables[i].*field.value)});
    }
  }
  for (const StoreField& field : kOfStore) {
    figures.push_back(
        {field.name, field.help, field.kind, {{{}, static_cast<double>(usage.*field.value)}}});
  }
  Figure& stalls = figures.emplace_back(
      Figure{"rocksdb_write_stalls_total",
             "Times that a column family's writes began to be delayed or stopped",
             Kind::kCounter,
             {}});
  for (const auto& [condition, value] : kStalls) {
    stalls.samples.push_back({{{"condition", condition}}, static_cast<double>(usage.*value)});
  }
  return figures;
}

}  // namespace msa::cli

#include <utility>

#include "memory_node/document_store.h"

namespace msa::memory_node {

std::string_view TableName(Table table) {
  constexpr std::string_view kNames[kNumTables] = {"meta", "text", "routing", "content", "system"};
  return kNames[static_cast<int>(table)];
}

std::string_view WriteSet::Keep(std::string bytes) {
  kept_.push_back(std::make_unique<const std::string>(std::move(bytes)));
  return *kept_.back();
}

void WriteSet::Put(Table table, std::string key, std::string value) {
  PutPieces(table, std::move(key), {Keep(std::move(value))});
}

void WriteSet::PutPieces(Table table, std::string key, std::vector<std::string_view> pieces) {
  bytes_ += key.size();
  for (std::string_view piece : pieces) bytes_ += piece.size();
  changes_.push_back({Change::Type::kPut, table, std::move(key), "", std::move(pieces)});
}

void WriteSet::Delete(Table table, std::string key) {
  bytes_ += key.size();
  changes_.push_back({Change::Type::kDelete, table, std::move(key), "", {}});
}

void WriteSet::DeleteRange(Table table, std::string begin, std::string end) {
  bytes_ += begin.size() + end.size();
  changes_.push_back({Change::Type::kDeleteRange, table, std::move(begin), std::move(end), {}});
}

absl::Status DocumentStore::CopyTo(const std::string&) {
  return absl::FailedPreconditionError("this store has no folder that could be copied");
}

}  // namespace msa::memory_node

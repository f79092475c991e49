// Stores of released versions are read for ever: golden_records/ has every key and value that a
// version wrote for a known story, one hex line "table key value" each. To write the files of a new
// version, run with MSA_WRITE_GOLDEN_RECORDS naming a folder.
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/escaping.h"
#include "common/strings.h"
#include "gtest/gtest.h"
#include "memory_node/shard.h"
#include "tests/memory_node/borrowed_store.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/tiny_backend.h"

namespace msa::memory_node {
namespace {

struct Golden {
  std::string name;
  rpc::BankSpec bank;

  std::string path() const {
    return std::string(MSA_SOURCE_DIR) + "/tests/memory_node/golden_records/" + name + ".txt";
  }
};

rpc::EncodedDocument Kept(const rpc::BankSpec& bank) {
  return testing::MakeDocument(bank, {.id = "kept",
                                      .first_reference = 3,
                                      .part_tokens = {20, 5},
                                      .seed = 5,
                                      .title = "Title",
                                      .text = "first, second"});
}

ShardOptions Options() {
  ShardOptions options;
  options.background = false;
  options.now = [] { return absl::FromUnixSeconds(1'700'000'000); };
  return options;
}

// The story: "kept" at revision 2, its revision 1 not yet swept; "gone" deleted.
void Tell(const rpc::BankSpec& bank, LocalShard& shard) {
  ASSERT_TRUE(shard.CreateBank({}, bank).ok());
  ASSERT_TRUE(shard.PutDocument({}, testing::MakeDocument(bank, {.id = "kept"})).ok());
  ASSERT_TRUE(
      shard.PutDocument({}, testing::MakeDocument(bank, {.id = "gone", .first_reference = 9}))
          .ok());
  ASSERT_TRUE(shard.PutDocument({}, Kept(bank)).ok());
  ASSERT_TRUE(shard.DeleteDocument({}, bank.name, "gone").ok());
}

std::string Hex(std::string_view bytes) { return absl::BytesToHexString(ToAbsl(bytes)); }

std::string Dump(DocumentStore& store) {
  std::string dump;
  for (int table = 0; table < kNumTables; ++table) {
    auto cursor = store.NewCursor(static_cast<Table>(table), true);
    for (cursor->Seek(""); cursor->Valid(); cursor->Next()) {
      dump += StrCat(table, " ", Hex(cursor->key()), " ", Hex(cursor->value()), "\n");
    }
  }
  return dump;
}

std::unique_ptr<DocumentStore> Load(const std::string& path) {
  auto store = MakeMemoryStore();
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  WriteSet writes;
  int table = 0;
  for (std::string line, key, value; std::getline(file, line); key.clear(), value.clear()) {
    std::istringstream(line) >> table >> key >> value;
    writes.Put(static_cast<Table>(table), absl::HexStringToBytes(key),
               absl::HexStringToBytes(value));
  }
  EXPECT_TRUE(store->Commit(writes, DocumentStore::Priority::kNormal).ok());
  return store;
}

class GoldenRecords : public ::testing::TestWithParam<Golden> {};

TEST_P(GoldenRecords, AreReadAsTheyWereWritten) {
  const rpc::BankSpec& bank = GetParam().bank;
  testing::TinyBackend backend;
  auto shard = LocalShard::Open(Load(GetParam().path()), &backend, Options());
  ASSERT_TRUE(shard.ok()) << shard.status();
  auto banks = (*shard)->ListBanks({});
  ASSERT_EQ(banks->size(), 1u);
  EXPECT_EQ((*banks)[0].spec, bank);
  EXPECT_EQ((*banks)[0].next_reference, 10);
  EXPECT_TRUE(absl::IsNotFound((*shard)->GetDocument({}, bank.name, "gone").status()));
  auto kept = (*shard)->GetDocument({}, bank.name, "kept");
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->full_text, "Title\nfirst, second");
  EXPECT_EQ(kept->info.revision, 2u);
  EXPECT_EQ(kept->info.metadata, "{\"seed\":5}");
  EXPECT_EQ(kept->info.added_unix_micros, 1'700'000'000'000'000);
  const uint64_t snapshot = (*shard)->OpenSnapshot({}, bank.name, absl::Minutes(1))->id;
  const auto document = Kept(bank);
  const auto queries = testing::MakeQueries(bank, 2, 8);
  auto routed = (*shard)->Route({}, {bank.name, snapshot, 0, 5, 10, queries});
  ASSERT_TRUE(routed.ok() && routed->size() == 2);
  for (const auto& part : *routed) {
    EXPECT_EQ(part.scored.score,
              testing::OracleScore(bank, document.parts[part.scored.reference - 3], 2, queries));
  }
  int blocks = 0;
  ASSERT_TRUE((*shard)
                  ->FetchBlocks({}, {bank.name, snapshot, {3, 4}, {2, 3, 5}},
                                [&](rpc::FetchedBlock block) {
                                  const auto& part = document.parts[block.reference - 3];
                                  std::string error;
                                  EXPECT_EQ(testing::ContentPayload(bank, part, 2, block.layer,
                                                                    block.record.view(), &error),
                                            part.layers[blocks++ / 2].content.view())
                                      << error;
                                  return absl::OkStatus();
                                })
                  .ok());
  EXPECT_EQ(blocks, 6);
  EXPECT_EQ((*(*shard)->PutDocument(
                 {}, testing::MakeDocument(bank, {.id = "gone", .first_reference = 20})))
                .revision,
            2u);
}

// Fails when what is written changes: then the format version must, too.
TEST_P(GoldenRecords, AreWhatIsWrittenToday) {
  testing::TinyBackend backend;
  const auto store = MakeMemoryStore();
  auto shard = LocalShard::Open(std::make_unique<BorrowedStore>(store.get()), &backend, Options());
  ASSERT_TRUE(shard.ok());
  Tell(GetParam().bank, **shard);
  const std::string written = Dump(*store);
  if (const char* folder = std::getenv("MSA_WRITE_GOLDEN_RECORDS")) {
    std::ofstream(StrCat(folder, "/", GetParam().name, ".txt")) << written;
  }
  std::ifstream file(GetParam().path());
  EXPECT_EQ(written, std::string(std::istreambuf_iterator<char>(file), {}));
}

INSTANTIATE_TEST_SUITE_P(
    Versions, GoldenRecords,
    ::testing::Values(Golden{"v1", testing::TestBank(DType::kInt8, DType::kBFloat16)},
                      Golden{"v2_fp8", testing::TestBank(DType::kFloat8, DType::kFloat8)}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace msa::memory_node

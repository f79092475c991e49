// kill -9 at random moments of a process that puts and deletes; what was acknowledged is there
// after, exactly; what was under way is there whole or not at all.
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "memory_node/shard.h"
#include "tests/memory_node/child_process.h"
#include "tests/memory_node/temp_folder.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/tiny_backend.h"

namespace msa::memory_node {
namespace {

const rpc::BankSpec kBank = testing::TestBank(DType::kBFloat16, DType::kInt8);

// A document's first reference tells the revision: none is used twice.
using State = std::optional<int64_t>;

struct Expected {
  State acknowledged;
  std::optional<State> under_way;
};

std::map<std::string, Expected> ReadLog(const std::string& path, int* lines) {
  std::map<std::string, Expected> expected;
  std::ifstream log(path);
  for (std::string line; std::getline(log, line); ++*lines) {
    std::istringstream words(line);
    std::string phase, operation, id;
    int64_t reference = 0;
    words >> phase >> operation >> id >> reference;
    const State state = operation == "put" ? State(reference) : State();
    if (phase == "begin") {
      expected[id].under_way = state;
    } else {
      expected[id] = {state, {}};
    }
  }
  return expected;
}

class CrashTest : public ::testing::Test {
 protected:
  std::unique_ptr<LocalShard> Reopen() {
    auto store = OpenRocksDbStore({.path = folder_.path() + "/data"});
    EXPECT_TRUE(store.ok()) << store.status();
    ShardOptions options;
    options.background = false;
    auto shard = LocalShard::Open(*std::move(store), &backend_, options);
    EXPECT_TRUE(shard.ok()) << shard.status();
    return *std::move(shard);
  }

  // Lets the child write `lines` more lines, then kills it.
  void RunAndKill(int seed, int lines) {
    int before = 0, now = 0;
    ReadLog(log_, &before);
    testing::ChildProcess child({std::string(MSA_BINARY_DIR) + "/tests/crash_workload",
                                 folder_.path() + "/data", log_, std::to_string(seed)});
    while (now < before + lines && child.Running()) {
      now = 0;
      ReadLog(log_, &now);
      std::this_thread::yield();
    }
    ASSERT_GE(now, before + lines) << "the workload ended by itself";
  }

  // What the shard has of `id`; checks that it is whole.
  State Held(LocalShard& shard, uint64_t snapshot, const std::string& id) {
    auto document = shard.GetDocument({}, kBank.name, id);
    if (absl::IsNotFound(document.status())) return {};
    EXPECT_TRUE(document.ok()) << document.status();
    if (!document.ok()) return {};
    const int64_t first = document->info.parts[0].reference;
    std::vector<int32_t> tokens;
    for (const auto& part : document->info.parts) tokens.push_back(part.num_tokens);
    const auto put =
        testing::MakeDocument(kBank, {.id = id, .first_reference = first, .part_tokens = tokens});
    for (const auto& part : put.parts) {
      parts_.insert(part.reference);
      size_t layer = 0;
      const auto status = shard.FetchBlocks(
          {}, {kBank.name, snapshot, {part.reference}, kBank.router_layers},
          [&](rpc::FetchedBlock block) {
            std::string error;
            EXPECT_EQ(testing::ContentPayload(kBank, part, document->info.revision, block.layer,
                                              block.record.view(), &error),
                      std::string(part.layers[layer++].content.view()))
                << error;
            return absl::OkStatus();
          });
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(layer, kBank.router_layers.size());
    }
    return first;
  }

  void CheckState() {
    const auto shard = Reopen();
    const auto snapshot = shard->OpenSnapshot({}, kBank.name, absl::Minutes(5));
    ASSERT_TRUE(snapshot.ok());
    int lines = 0;
    parts_.clear();
    const auto expected = ReadLog(log_, &lines);
    for (const auto& [id, state] : expected) {
      const State held = Held(*shard, snapshot->id, id);
      const bool acknowledged = held == state.acknowledged;
      EXPECT_TRUE(acknowledged || (state.under_way && held == *state.under_way))
          << id << " has " << held.value_or(-1) << ", acknowledged "
          << state.acknowledged.value_or(-1);
      // Settled now: what it is must not change by the next crash.
      std::ofstream(log_, std::ios::app)
          << (held ? "done put " + id + " " + std::to_string(*held) : "done delete " + id) << "\n";
    }
    CheckRouted(*shard, snapshot->id);
    EXPECT_EQ(shard->Stats({}, kBank.name)->corrupt_records, 0);
  }

  // Every part of what is there, with its score, and nothing else.
  void CheckRouted(LocalShard& shard, uint64_t snapshot) {
    auto routed =
        shard.Route({}, {kBank.name, snapshot, 0, 3, 1000, testing::MakeQueries(kBank, 2, 1)});
    ASSERT_TRUE(routed.ok()) << routed.status();
    std::set<int64_t> references;
    for (const auto& part : *routed) references.insert(part.scored.reference);
    EXPECT_EQ(references, parts_);
  }

  testing::TempFolder folder_;
  testing::TinyBackend backend_;
  const std::string log_ = folder_.path() + "/log";
  std::set<int64_t> parts_;
};

TEST_F(CrashTest, KilledAtAnyMomentNothingAcknowledgedIsLost) {
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    RunAndKill(round, 40 + 97 * round);
    CheckState();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace msa::memory_node

// The process that crash_test kills. Usage: crash_workload FOLDER LOG SEED: puts and deletes random
// documents for ever, a line to LOG before each and another after its acknowledgement; or
// crash_workload hold FOLDER: opens the store, says so, waits to be killed.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/check.h"
#include "common/strings.h"
#include "memory_node/shard.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/tiny_backend.h"

namespace msa::memory_node {
namespace {

constexpr int kThreads = 2;
constexpr int kIds = 12;  // a thread

const rpc::BankSpec kBank = testing::TestBank(DType::kBFloat16, DType::kInt8);

std::unique_ptr<DocumentStore> OpenStore(const std::string& folder) {
  // Small buffers: flushes, blob files and compaction happen under the knife, too.
  auto store = OpenRocksDbStore({.path = folder, .write_buffer_bytes = 256 << 10});
  if (!store.ok()) {
    std::fprintf(stderr, "%s\n", store.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(store);
}

// One write(2) a line: what is in the page cache survives kill -9.
void Log(int fd, const std::string& line) {
  MSA_CHECK(write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
}

void Work(LocalShard& shard, int fd, int thread, uint64_t seed, int64_t first_reference) {
  std::mt19937_64 random(seed * kThreads + thread);
  rpc::CallContext ctx;
  for (int64_t reference = first_reference + thread * 500'000;; reference += 2) {
    const std::string id = StrCat(thread, "-", random() % kIds);
    if (random() % 3 == 0) {
      Log(fd, StrCat("begin delete ", id, "\n"));
      auto revision = shard.DeleteDocument(ctx, kBank.name, id);
      MSA_CHECK(revision.ok() || absl::IsNotFound(revision.status()));
      Log(fd, StrCat("done delete ", id, "\n"));
    } else {
      Log(fd, StrCat("begin put ", id, " ", reference, "\n"));
      const std::vector<int32_t> tokens =
          random() % 2 == 0 ? std::vector<int32_t>{64, 30} : std::vector<int32_t>{10};
      auto put = shard.PutDocument(
          ctx, testing::MakeDocument(kBank, {.id = id,
                                             .first_reference = reference,
                                             .part_tokens = tokens,
                                             .text = std::string(random() % 20000, 't')}));
      MSA_CHECK(put.ok());
      Log(fd,
          StrCat("done put ", id, " ", reference, " ", put->revision, " ", put->num_parts, "\n"));
    }
  }
}

int Run(const std::string& folder, const std::string& log, uint64_t seed) {
  testing::TinyBackend backend;
  ShardOptions options;
  options.index.min_segment_chunks = 64;
  options.maintenance_interval = absl::Milliseconds(5);
  auto shard = LocalShard::Open(OpenStore(folder), &backend, options);
  MSA_CHECK(shard.ok() && (*shard)->CreateBank({}, kBank).ok());
  const int64_t next = (*(*shard)->ListBanks({}))[0].next_reference;
  const int fd = open(log.c_str(), O_WRONLY | O_APPEND | O_CREAT, 0600);
  MSA_CHECK(fd >= 0);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] { Work(**shard, fd, i, seed, next); });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}

int Hold(const std::string& folder) {
  const auto store = OpenStore(folder);
  std::puts("held");
  std::fflush(stdout);
  while (true) pause();
}

}  // namespace
}  // namespace msa::memory_node

int main(int argc, char** argv) {
  if (argc == 3) return msa::memory_node::Hold(argv[2]);
  if (argc == 4)
    return msa::memory_node::Run(argv[1], argv[2], std::strtoull(argv[3], nullptr, 10));
  return 2;
}

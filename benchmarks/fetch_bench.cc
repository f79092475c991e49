// FetchBlocks over loopback beside Redis GET of the same sizes and memcpy, in one run.
//   fetch_bench [--seconds 1] [--sizes 65536,…] [--streams 1,4,16] [--no-redis]
// Prints JSON: for each size and number of streams the throughput (GB/s, 1e9 bytes), the time from
// one block to the next (p50, p99, µs) and the processor time of both ends together (s/GB), which
// other load on the machine moves least.
//
// What is compared: a caller wants the blocks of a routed selection, all keys known. FetchBlocks is
// one call for kBatch blocks; Redis is asked in two ways, one GET after another ("redis_get") and
// kBatch GETs pipelined ("redis_pipelined"), which is its fastest. Both sides serve from memory;
// both receivers keep the block they got until the next one comes.
#include <hiredis/hiredis.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "rpc/grpc_server.h"
#include "rpc/remote.h"

namespace msa {
namespace {

constexpr int kBatch = 64;  // blocks a call: 4 documents in 16 layers

struct Figures {
  double gigabytes_per_second = 0;
  double p50_us = 0;
  double p99_us = 0;
  double cpu_s_per_gb = 0;
};

// Serves kBatch equal blocks from memory.
class BlockShard : public rpc::MemoryShard {
 public:
  void SetSize(size_t size) { block_ = rpc::Payload(std::string(size, 'b')); }
  absl::Status FetchBlocks(const rpc::CallContext&, const rpc::FetchRequest& request,
                           const std::function<absl::Status(rpc::FetchedBlock)>& sink) override {
    for (int64_t reference : request.references) {
      if (absl::Status status = sink({reference, 0, block_}); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status CreateBank(const rpc::CallContext&, const rpc::BankSpec&) override { return No(); }
  absl::Status DeleteBank(const rpc::CallContext&, const std::string&) override { return No(); }
  absl::Status DeleteUnusedBank(const rpc::CallContext&, const std::string&, uint64_t) override {
    return No();
  }
  absl::StatusOr<std::vector<rpc::BankState>> ListBanks(const rpc::CallContext&) override {
    return No();
  }
  absl::Status SetCoarse(const rpc::CallContext&, const std::string&,
                         const rpc::CoarseState&) override {
    return No();
  }
  absl::StatusOr<int64_t> TakeReferences(const rpc::CallContext&, const std::string&, uint64_t,
                                         int64_t, int64_t) override {
    return No();
  }
  absl::StatusOr<rpc::PutResult> PutDocument(const rpc::CallContext&,
                                             const rpc::EncodedDocument&) override {
    return No();
  }
  absl::StatusOr<uint64_t> DeleteDocument(const rpc::CallContext&, const std::string&,
                                          const std::string&) override {
    return No();
  }
  absl::StatusOr<rpc::StoredDocument> GetDocument(const rpc::CallContext&, const std::string&,
                                                  const std::string&) override {
    return No();
  }
  absl::StatusOr<std::vector<rpc::DocumentInfo>> ListDocuments(const rpc::CallContext&,
                                                               const std::string&,
                                                               const std::string&,
                                                               int32_t) override {
    return No();
  }
  absl::StatusOr<std::vector<rpc::PartText>> GetParts(const rpc::CallContext&, const std::string&,
                                                      uint64_t,
                                                      absl::Span<const int64_t>) override {
    return No();
  }
  absl::StatusOr<rpc::Snapshot> OpenSnapshot(const rpc::CallContext&, const std::string&,
                                             absl::Duration) override {
    return No();
  }
  absl::Status CloseSnapshot(const rpc::CallContext&, uint64_t) override { return No(); }
  absl::StatusOr<std::vector<rpc::RoutedPart>> Route(const rpc::CallContext&,
                                                     const rpc::RouteRequest&) override {
    return No();
  }
  absl::StatusOr<std::vector<rpc::RankedPart>> Rank(const rpc::CallContext&,
                                                    const rpc::RankRequest&) override {
    return No();
  }
  absl::StatusOr<rpc::ShardStats> Stats(const rpc::CallContext&, const std::string&) override {
    return No();
  }

 private:
  static absl::Status No() { return absl::UnimplementedError("only FetchBlocks is measured"); }
  rpc::Payload block_;
};

pid_t redis_process = 0;  // 0: none

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

// Of this process and of redis-server.
double CpuSeconds() {
  rusage own{};
  getrusage(RUSAGE_SELF, &own);
  double total = Seconds(own.ru_utime) + Seconds(own.ru_stime);
  std::ifstream file(absl::StrCat("/proc/", redis_process, "/stat"));
  std::string field;
  // Fields 14 and 15 are user and system time in clock ticks; the name (2) has no spaces.
  for (int i = 1; i <= 15 && file >> field; ++i) {
    if (i >= 14) total += std::atof(field.c_str()) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  return total;
}

// Runs `worker(stream, tick)` on `streams` threads for `seconds`; `tick(bytes)` is called a block
// and says whether to go on.
Figures Measure(int streams, double seconds,
                const std::function<void(int, const std::function<bool(size_t)>&)>& worker) {
  std::atomic<int64_t> bytes = 0;
  std::vector<std::vector<double>> gaps(streams);
  const double cpu = CpuSeconds();
  const absl::Time begin = absl::Now();
  const absl::Time end = begin + absl::Seconds(seconds);
  std::vector<std::thread> threads;
  for (int stream = 0; stream < streams; ++stream) {
    threads.emplace_back([&, stream] {
      absl::Time last = absl::Now();
      worker(stream, [&, stream](size_t size) {
        const absl::Time now = absl::Now();
        gaps[stream].push_back(absl::ToDoubleMicroseconds(now - last));
        last = now;
        bytes += static_cast<int64_t>(size);
        return now < end;
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double elapsed = absl::ToDoubleSeconds(absl::Now() - begin);
  std::vector<double> all;
  for (const auto& own : gaps) all.insert(all.end(), own.begin(), own.end());
  std::sort(all.begin(), all.end());
  if (all.empty()) return {};
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  return {gigabytes / elapsed, all[all.size() / 2], all[all.size() * 99 / 100],
          (CpuSeconds() - cpu) / gigabytes};
}

Figures MeasureFetch(rpc::MemoryShard& shard, int streams, double seconds) {
  rpc::FetchRequest request{.bank = "b", .snapshot_id = 1, .references = {}, .layers = {0}};
  for (int i = 0; i < kBatch; ++i) request.references.push_back(i);
  return Measure(streams, seconds, [&](int, const auto& tick) {
    bool more = true;
    while (more) {
      rpc::Payload kept;
      const absl::Status status = shard.FetchBlocks({}, request, [&](rpc::FetchedBlock block) {
        kept = std::move(block.record);
        more = tick(kept.size());
        return absl::OkStatus();
      });
      if (!status.ok()) {
        std::fprintf(stderr, "FetchBlocks: %s\n", status.ToString().c_str());
        std::exit(1);
      }
    }
  });
}

// A redis-server of its own on a unix-free loopback port, without persistence.
class Redis {
 public:
  Redis() : port_(20000 + ::getpid() % 20000), process_(::fork()) {
    if (process_ == 0) {
      const std::string port = absl::StrCat(port_);
      ::execlp("redis-server", "redis-server", "--port", port.c_str(), "--bind", "127.0.0.1",
               "--save", "", "--appendonly", "no", "--logfile", "/dev/null", nullptr);
      std::_Exit(127);
    }
    redis_process = process_;
  }
  ~Redis() {
    ::kill(process_, SIGTERM);
    ::waitpid(process_, nullptr, 0);
  }

  // Null when there is no server within ten seconds.
  redisContext* Connect() const {
    for (const absl::Time end = absl::Now() + absl::Seconds(10); absl::Now() < end;) {
      redisContext* context = redisConnect("127.0.0.1", port_);
      if (context != nullptr && context->err == 0) return context;
      redisFree(context);
      absl::SleepFor(absl::Milliseconds(50));
    }
    return nullptr;
  }

 private:
  const int port_;
  const pid_t process_;
};

size_t SizeOf(void* reply) { return static_cast<redisReply*>(reply)->len; }

Figures MeasureRedis(const Redis& redis, int streams, double seconds, int pipelined) {
  return Measure(streams, seconds, [&](int, const auto& tick) {
    redisContext* context = redis.Connect();
    if (context == nullptr) return;
    void* kept = nullptr;
    bool more = true;
    while (more) {
      for (int i = 0; i < pipelined; ++i) redisAppendCommand(context, "GET block%d", i);
      for (int i = 0; i < pipelined; ++i) {
        void* reply = nullptr;
        if (redisGetReply(context, &reply) != REDIS_OK) std::exit(1);
        if (kept != nullptr) freeReplyObject(kept);
        kept = reply;
        more = tick(SizeOf(reply));
      }
    }
    freeReplyObject(kept);
    redisFree(context);
  });
}

void FillRedis(const Redis& redis, size_t size) {
  redisContext* context = redis.Connect();
  if (context == nullptr) {
    std::fprintf(stderr, "redis-server did not start: install it, or use --no-redis\n");
    std::exit(1);
  }
  const std::string block(size, 'b');
  for (int i = 0; i < kBatch; ++i) {
    freeReplyObject(redisCommand(context, "SET block%d %b", i, block.data(), block.size()));
  }
  redisFree(context);
}

// Into another block each time, as a receiver would.
Figures MeasureMemcpy(size_t size, int streams, double seconds) {
  const std::string source(size, 'b');
  return Measure(streams, seconds, [&](int, const auto& tick) {
    std::vector<std::string> targets(8, std::string(size, ' '));
    for (size_t i = 0; tick(size); ++i) {
      std::memcpy(targets[i % targets.size()].data(), source.data(), size);
      asm volatile("" : : "r"(targets[i % targets.size()].data()) : "memory");
    }
  });
}

std::string Json(const Figures& figures) {
  return absl::StrCat("{\"gb_per_s\": ", figures.gigabytes_per_second,
                      ", \"p50_us\": ", figures.p50_us, ", \"p99_us\": ", figures.p99_us,
                      ", \"cpu_s_per_gb\": ", figures.cpu_s_per_gb, "}");
}

std::vector<int> Numbers(const std::string& list) {
  std::vector<int> numbers;
  for (const auto& item : absl::StrSplit(list, ',')) {
    int number = 0;
    if (absl::SimpleAtoi(item, &number)) numbers.push_back(number);
  }
  return numbers;
}

struct Arguments {
  double seconds = 1;
  std::string sizes = "65536,262144,1048576,4194304";
  std::string streams = "1,4,16";
  bool redis = true;
};

Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--no-redis") {
      arguments.redis = false;
    } else if (i + 1 < argc && flag == "--seconds") {
      arguments.seconds = std::atof(argv[++i]);
    } else if (i + 1 < argc && flag == "--sizes") {
      arguments.sizes = argv[++i];
    } else if (i + 1 < argc && flag == "--streams") {
      arguments.streams = argv[++i];
    } else {
      std::fprintf(stderr,
                   "usage: fetch_bench [--seconds S] [--sizes A,B] [--streams A,B] "
                   "[--no-redis]\n");
      std::exit(2);
    }
  }
  return arguments;
}

int Main(int argc, char** argv) {
  const Arguments arguments = Parse(argc, argv);
  const std::unique_ptr<Redis> redis = arguments.redis ? std::make_unique<Redis>() : nullptr;
  BlockShard local;
  rpc::GrpcServer::Builder builder;
  auto server = builder.Add(static_cast<rpc::MemoryShard*>(&local)).Start("127.0.0.1:0");
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
    return 1;
  }
  rpc::RemoteOptions options;
  options.address = absl::StrCat("127.0.0.1:", (*server)->port());
  const auto remote = rpc::MakeRemoteMemoryShard(options);
  std::printf(
      "{\"benchmark\": \"fetch_blocks\", \"cpus\": %u, \"blocks_a_call\": %d,\n"
      " \"results\": [",
      std::thread::hardware_concurrency(), kBatch);
  const char* separator = "\n";
  for (int size : Numbers(arguments.sizes)) {
    local.SetSize(size);
    if (redis != nullptr) FillRedis(*redis, size);
    for (int streams : Numbers(arguments.streams)) {
      std::string line =
          absl::StrCat("  {\"bytes\": ", size, ", \"streams\": ", streams,
                       ", \"memcpy\": ", Json(MeasureMemcpy(size, streams, arguments.seconds / 4)));
      MeasureFetch(*remote, streams, arguments.seconds / 10);  // connects, warms up
      absl::StrAppend(
          &line, ", \"fetch_blocks\": ", Json(MeasureFetch(*remote, streams, arguments.seconds)));
      if (redis != nullptr) {
        absl::StrAppend(
            &line, ", \"redis_get\": ", Json(MeasureRedis(*redis, streams, arguments.seconds, 1)),
            ", \"redis_pipelined\": ",
            Json(MeasureRedis(*redis, streams, arguments.seconds, kBatch)));
      }
      std::printf("%s%s}", separator, line.c_str());
      std::fflush(stdout);
      separator = ",\n";
    }
  }
  std::printf("\n ]}\n");
  return 0;
}

}  // namespace
}  // namespace msa

int main(int argc, char** argv) { return msa::Main(argc, argv); }

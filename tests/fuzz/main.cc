// Replays the seeds of a target, then runs mutations of them that are the same on every machine.
//
// usage: TARGET [-runs=N] [-seed=N] FILE|FOLDER…     libFuzzer's own names, so that both take them
//
// The inputs run in a child: however it ends (a signal, an exception, a sanitizer's exit), this
// process has the input that it ended with and can say it.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/mutator.h"
#include "tests/fuzz/target.h"

namespace msa::fuzz {
namespace {

constexpr unsigned kMaxInputSeconds = 60;            // of one input, on a loaded machine
constexpr rlim_t kMaxInputMemory = rlim_t{1} << 30;  // bytes besides what the program has at first
constexpr size_t kMaxPrintedBytes = 8u << 10;

struct Options {
  uint64_t runs = 0;
  uint64_t seed = 1;
  std::vector<std::string> paths;
};

// What the child is at, in memory that both see.
struct Current {
  char origin[256];
  size_t size;
  uint8_t bytes[kMaxInputBytes];
};

struct Seed {
  std::string name;
  std::string bytes;
};

[[noreturn]] void Usage(const std::string& why) {
  std::fprintf(stderr, "%s\nusage: TARGET [-runs=N] [-seed=N] FILE|FOLDER...\n", why.c_str());
  std::exit(2);
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("-runs=")) {
      options.runs = std::strtoull(argument.c_str() + 6, nullptr, 10);
    } else if (argument.starts_with("-seed=")) {
      options.seed = std::strtoull(argument.c_str() + 6, nullptr, 10);
    } else if (argument.starts_with("-")) {
      Usage("unknown option " + argument);
    } else {
      options.paths.push_back(argument);
    }
  }
  return options;
}

Seed ReadSeed(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  Seed seed{path.string(), {std::istreambuf_iterator<char>(file), {}}};
  if (!file) Usage("cannot read " + seed.name);
  if (seed.bytes.size() > kMaxInputBytes) Usage(seed.name + " is larger than any input may be");
  return seed;
}

// By name: the order decides what is made of them.
std::vector<Seed> ReadSeeds(const std::vector<std::string>& paths) {
  std::vector<std::filesystem::path> files;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Seed> seeds;
  for (const auto& file : files) seeds.push_back(ReadSeed(file));
  if (seeds.empty()) Usage("no seeds: name the target's folder of tests/fuzz/corpus");
  return seeds;
}

void LimitChild() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
#if !defined(__SANITIZE_ADDRESS__)  // which maps terabytes
  std::ifstream statm("/proc/self/statm");
  rlim_t pages = 0;
  statm >> pages;
  const rlim_t bytes = pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + kMaxInputMemory;
  const rlimit memory = {bytes, bytes};
  setrlimit(RLIMIT_AS, &memory);
#endif
}

void Try(const std::string& origin, const std::string& bytes, Current* current) {
  std::snprintf(current->origin, sizeof(current->origin), "%s", origin.c_str());
  current->size = bytes.size();
  std::copy(bytes.begin(), bytes.end(), current->bytes);
  alarm(kMaxInputSeconds);
  // A copy of just that size, so that a sanitizer sees a read past its end.
  const std::vector<uint8_t> input(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

void RunAll(const std::vector<Seed>& seeds, const Options& options, Current* current) {
  std::vector<std::string> inputs;
  for (const Seed& seed : seeds) {
    Try(seed.name, seed.bytes, current);
    inputs.push_back(seed.bytes);
  }
  Mutator mutator(std::move(inputs), options.seed);
  for (uint64_t run = 0; run < options.runs; ++run) {
    Try("run " + std::to_string(run) + " of seed " + std::to_string(options.seed),
        mutator.Make(run), current);
  }
}

// For the corpus: as a file, and as hexadecimal digits where only the log is left.
void Report(int status, const Current& current) {
  if (WIFSIGNALED(status)) {
    std::fprintf(stderr, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
  } else {
    std::fprintf(stderr, "ended with exit code %d", WEXITSTATUS(status));
  }
  std::fprintf(stderr, " in %s, an input of %zu bytes\n", current.origin, current.size);
  const std::string name = "fuzz-failure-" + std::to_string(getpid());
  std::ofstream(name, std::ios::binary)
      .write(reinterpret_cast<const char*>(current.bytes),
             static_cast<std::streamsize>(current.size));
  std::fprintf(stderr, "written to %s; once it is mended, add it to the corpus. It begins:\n",
               name.c_str());
  for (size_t i = 0; i < std::min(current.size, kMaxPrintedBytes); ++i) {
    std::fprintf(stderr, "%02x", current.bytes[i]);
  }
  std::fprintf(stderr, "\n");
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  const std::vector<Seed> seeds = ReadSeeds(options.paths);
  void* const shared =
      mmap(nullptr, sizeof(Current), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) Usage("no memory");
  auto* const current = new (shared) Current{};
  const pid_t child = fork();
  if (child == 0) {
    LimitChild();
    RunAll(seeds, options, current);
    std::exit(0);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) Usage("no child");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    Report(status, *current);
    return 1;
  }
  std::printf("%zu seeds and %llu mutations of them (seed %llu) are as they should be\n",
              seeds.size(), static_cast<unsigned long long>(options.runs),
              static_cast<unsigned long long>(options.seed));
  return 0;
}

}  // namespace
}  // namespace msa::fuzz

int main(int argc, char** argv) { return msa::fuzz::Main(argc, argv); }

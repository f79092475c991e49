// `msa bench`, which can measure a server of its own making.
#ifndef MSA_CLI_BENCH_VERB_H_
#define MSA_CLI_BENCH_VERB_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cli/gpu_flags.h"
#include "cli/verb.h"

namespace msa::cli {

inline constexpr int64_t kMaxSyntheticTokens = 500'000'000'000;

struct SyntheticOptions {
  std::string model;      // "msa-4b", …
  std::string tokenizer;  // tokenizer.json whose ids the questions get; empty: the default model's
  int64_t tokens = 0;     // of memory, up to kMaxSyntheticTokens
  std::string keys = "bf16";
  std::string content = "bf16";
  std::string weights = "bf16";
  std::string backend = "cpu";
  GpuFlags gpus;
  int32_t max_sessions = 64;
};
using SyntheticServer = std::function<absl::StatusOr<Connection>(const SyntheticOptions&)>;

// Without `synthetic` (null) the verb has no --synthetic-model.
std::unique_ptr<Verb> MakeBenchVerb(const Connector& connect, SyntheticServer synthetic);

}  // namespace msa::cli

#endif  // MSA_CLI_BENCH_VERB_H_

// msa verify: runs golden cases through the whole engine and compares what they hold.
#include "compute_node/verify/verify.h"

#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/json.h"
#include "cli/model_paths.h"
#include "cli/roles.h"
#include "cli/server_verbs.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "kernels/backend.h"
#include "memory_node/document_store.h"
#include "memory_node/shard.h"
#include "router/router.h"
#include "rpc/shard_map.h"

namespace msa::cli {
namespace {

// A folder of the process's own, gone with it.
class TemporaryFolder {
 public:
  static absl::StatusOr<TemporaryFolder> Make() {
    std::string path = (std::filesystem::temp_directory_path() / "msa-verify-XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) {
      return absl::ErrnoToStatus(errno, StrCat("cannot make the folder ", path));
    }
    return TemporaryFolder(std::move(path));
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// One shard over RocksDB and a router, as `serve` has them.
class InProcessMemory : public compute_node::VerifyMemory {
 public:
  static absl::StatusOr<std::unique_ptr<compute_node::VerifyMemory>> Make(
      const kernels::Backend* kernels, rpc::ComputeNode& node) {
    MSA_ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::Make());
    memory_node::RocksDbOptions store_options;
    store_options.path = folder.path();
    MSA_ASSIGN_OR_RETURN(auto store, memory_node::OpenRocksDbStore(store_options));
    MSA_ASSIGN_OR_RETURN(auto shard, memory_node::LocalShard::Open(std::move(store), kernels, {}));
    return std::unique_ptr<compute_node::VerifyMemory>(
        new InProcessMemory(std::move(folder), std::move(shard), node));
  }

  rpc::MemoryService& service() override { return router_; }
  rpc::SessionRouter& router() override { return router_; }
  std::vector<rpc::MemoryShard*> shards() override { return {shard_.get()}; }

 private:
  InProcessMemory(TemporaryFolder folder, std::unique_ptr<memory_node::LocalShard> shard,
                  rpc::ComputeNode& node)
      : folder_(std::move(folder)),
        shard_(std::move(shard)),
        router_(rpc::ShardMap::Embedded(), {shard_.get()}, {}) {
    router_.AddComputeNode("local", &node);
  }

  TemporaryFolder folder_;
  std::unique_ptr<memory_node::LocalShard> shard_;
  router::Router router_;
};

Json ReportJson(const compute_node::VerifyReport& report) {
  Json tensors = Json::array();
  for (const compute_node::TensorCheck& check : report.tensors) {
    tensors.push_back({{"name", check.name},
                       {"max_error", check.max_error},
                       {"tolerance", check.tolerance},
                       {"ok", check.ok}});
  }
  Json exact = Json::array();
  for (const compute_node::ExactCheck& check : report.exact) {
    exact.push_back({{"name", check.name}, {"ok", check.ok}, {"detail", check.detail}});
  }
  return {
      {"case", report.case_dir},   {"kind", report.kind},           {"ok", report.ok()},
      {"skipped", report.skipped}, {"tensors", std::move(tensors)}, {"exact", std::move(exact)}};
}

class VerifyVerb : public Verb {
 public:
  std::string_view name() const override { return "verify"; }
  std::string_view help() const override {
    return "Compare this engine with golden cases, tensor by tensor";
  }

  void AddFlags(FlagSet& flags) override {
    flags.Positional("cases", &cases_, "Folders of golden cases (tests/golden/README.md)");
    flags.Add("--model", &model_, "Base model of the cases that name an adapter");
    backend_.AddFlags(flags);
    flags.Add("--all", &all_, "Print every check, not only those that failed");
    flags.Add("--json", &json_, "Print JSON, an object a case");
  }

  absl::Status Run(Io& io) override {
    MSA_ASSIGN_OR_RETURN(const auto kernels, backend_.Make());
    compute_node::VerifyOptions options;
    options.backend = &kernels.member(0);
    options.make_memory = [&](rpc::ComputeNode& node) {
      return InProcessMemory::Make(&kernels.memory(), node);
    };
    // Only some cases need it; theirs is the error when it is missing.
    options.base_model_dir = FindModel(model_).value_or(model_);
    int failed = 0;
    absl::Status unread;  // of the first case that could not be run: the others still are
    for (const std::string& dir : cases_) {
      const absl::StatusOr<compute_node::VerifyReport> report =
          compute_node::RunVerify(dir, options);
      if (!report.ok()) {
        PrintUnread(dir, report.status(), io);
        unread.Update(report.status());
        continue;
      }
      failed += !report->ok();
      if (json_) {
        io.out << Dump(ReportJson(*report)) << "\n" << std::flush;
      } else {
        Print(*report, io.out);
      }
    }
    if (failed == 0) return unread;
    return absl::DataLossError(StrCat(failed, " of ", cases_.size(),
                                      " cases differ from what is expected past their tolerance"));
  }

 private:
  void PrintUnread(const std::string& dir, const absl::Status& status, Io& io) const {
    if (json_) {
      compute_node::VerifyReport none;
      none.case_dir = dir;
      Json object = ReportJson(none);
      object["error"] = std::string(status.message());
      io.out << Dump(object) << "\n" << std::flush;
    } else if (cases_.size() > 1) {  // of one it is how the verb ends
      io.out << dir << ": not run: " << status.message() << "\n";
    }
  }

  void Print(const compute_node::VerifyReport& report, std::ostream& out) const {
    size_t passed = 0;
    for (const compute_node::TensorCheck& check : report.tensors) {
      passed += check.ok;
      if (check.ok && !all_) continue;
      out << absl::StrFormat("%-6s %-44s %10.2e of %8.1e\n", check.ok ? "ok" : "FAILED", check.name,
                             check.max_error, check.tolerance);
    }
    for (const compute_node::ExactCheck& check : report.exact) {
      passed += check.ok;
      if (check.ok && !all_) continue;
      out << absl::StrFormat("%-6s %-44s %s\n", check.ok ? "ok" : "FAILED", check.name,
                             check.ok ? "equal" : check.detail);
    }
    for (const std::string& skipped : report.skipped) out << "skipped " << skipped << "\n";
    out << absl::StrFormat("%s: %d of %d checks passed (%d tensors, %d exact)\n", report.case_dir,
                           passed, report.tensors.size() + report.exact.size(),
                           report.tensors.size(), report.exact.size());
  }

  std::vector<std::string> cases_;
  std::string model_;
  BackendFlags backend_;
  bool all_ = false;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Verb> MakeVerifyVerb() { return std::make_unique<VerifyVerb>(); }

}  // namespace msa::cli

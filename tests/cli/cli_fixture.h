// Runs command lines as main() would, with a fake service behind --server.
#ifndef MSA_TESTS_CLI_CLI_FIXTURE_H_
#define MSA_TESTS_CLI_CLI_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/key_verbs.h"
#include "tests/support/fake_memory_service.h"

namespace msa::cli {

// Passes every call on: verbs own what they connect to, the test keeps the fake.
class BorrowedService : public rpc::MemoryService {
 public:
  explicit BorrowedService(rpc::MemoryService& to) : to_(to) {}
  absl::StatusOr<rpc::BankSpec> CreateBank(const rpc::CallContext& ctx, const std::string& name,
                                           const rpc::BankOptions& options) override {
    return to_.CreateBank(ctx, name, options);
  }
  absl::Status DeleteBank(const rpc::CallContext& ctx, const std::string& name) override {
    return to_.DeleteBank(ctx, name);
  }
  absl::StatusOr<rpc::ModelInfo> GetModel(const rpc::CallContext& ctx) override {
    return to_.GetModel(ctx);
  }
  absl::StatusOr<std::vector<rpc::BankSpec>> ListBanks(const rpc::CallContext& ctx) override {
    return to_.ListBanks(ctx);
  }
  absl::StatusOr<rpc::CoarseState> SetCoarse(const rpc::CallContext& ctx, const std::string& bank,
                                             const rpc::CoarseState& state) override {
    return to_.SetCoarse(ctx, bank, state);
  }
  absl::Status AddDocuments(const rpc::CallContext& ctx, const std::string& bank,
                            const std::function<std::optional<rpc::NewDocument>()>& next,
                            const std::function<bool(const rpc::AddResult&)>& done) override {
    return to_.AddDocuments(ctx, bank, next, done);
  }
  absl::StatusOr<std::vector<rpc::DeleteResult>> DeleteDocuments(
      const rpc::CallContext& ctx, const std::string& bank,
      const std::vector<std::string>& ids) override {
    return to_.DeleteDocuments(ctx, bank, ids);
  }
  absl::StatusOr<rpc::StoredDocument> GetDocument(const rpc::CallContext& ctx,
                                                  const std::string& bank,
                                                  const std::string& id) override {
    return to_.GetDocument(ctx, bank, id);
  }
  absl::StatusOr<rpc::DocumentPage> ListDocuments(const rpc::CallContext& ctx,
                                                  const std::string& bank, int32_t page_size,
                                                  const std::string& page_token) override {
    return to_.ListDocuments(ctx, bank, page_size, page_token);
  }
  absl::StatusOr<rpc::RetrieveReply> Retrieve(const rpc::CallContext& ctx,
                                              const rpc::RetrieveRequest& request) override {
    return to_.Retrieve(ctx, request);
  }
  absl::Status Generate(const rpc::CallContext& ctx, const rpc::GenerateRequest& request,
                        const rpc::EventSink& sink) override {
    return to_.Generate(ctx, request, sink);
  }
  absl::StatusOr<rpc::BankStats> Stats(const rpc::CallContext& ctx,
                                       const std::string& bank) override {
    return to_.Stats(ctx, bank);
  }

 private:
  rpc::MemoryService& to_;
};

class CliTest : public ::testing::Test {
 protected:
  CliTest() : folder_(::testing::TempDir() + "msa_cli_XXXXXX") {
    if (mkdtemp(folder_.data()) == nullptr) ADD_FAILURE() << "no temporary folder";
  }
  ~CliTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
    for (const std::string& name : environment_) unsetenv(name.c_str());
  }

  // Gives the exit code; out_ and err_ hold what was written.
  int Msa(std::vector<std::string> arguments, const std::string& standard_input = "") {
    std::istringstream in(standard_input);
    std::ostringstream out, err;
    Io io{in, out, err};
    arguments.insert(arguments.begin(), "msa");
    std::vector<const char*> argv;
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    std::vector<std::unique_ptr<Verb>> verbs = ClientVerbs(connect_, synthetic_);
    for (std::unique_ptr<Verb>& verb : KeyVerbs()) verbs.push_back(std::move(verb));
    const int code = RunCommandLine(verbs, static_cast<int>(argv.size()), argv.data(), io);
    out_ = out.str();
    err_ = err.str();
    return code;
  }

  std::vector<Json> OutLines() const {
    std::vector<Json> lines;
    for (const std::string& line :
         std::vector<std::string>(absl::StrSplit(out_, '\n', absl::SkipEmpty()))) {
      lines.push_back(Json::parse(line, nullptr, false));
    }
    return lines;
  }

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  // Until the test ends.
  void SetEnvironment(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    environment_.push_back(name);
  }

  testing::FakeMemoryService service_;
  // What the verbs connect by; a test may put another in its place.
  Connector connect_ = [this](const ServerAt& server) -> absl::StatusOr<Connection> {
    server_ = server.address;
    return Connection{.keeps = nullptr,
                      .service = std::make_unique<BorrowedService>(service_),
                      .reachable = [this] { return reachable_; }};
  };
  SyntheticServer synthetic_;  // null: `bench` has none of its flags
  bool reachable_ = true;
  std::string folder_;
  std::string server_;  // the address last connected to
  std::string out_;
  std::string err_;

 private:
  std::vector<std::string> environment_;
};

}  // namespace msa::cli

#endif  // MSA_TESTS_CLI_CLI_FIXTURE_H_

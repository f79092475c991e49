// A verb of the `msa` binary: `msa add …`. One small file each; main() only lists them.
#ifndef MSA_CLI_VERB_H_
#define MSA_CLI_VERB_H_

#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/api_key_flag.h"
#include "cli/flags.h"
#include "rpc/backup_service.h"
#include "rpc/memory_service.h"
#include "rpc/tls.h"

namespace msa::cli {

// The streams a verb reads and writes. Results go to `out`, all else to `err`.
struct Io {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool out_is_terminal = false;  // colours, wrapping
  bool err_is_terminal = false;  // progress bars
  // Ends `in`, from any thread, though somebody waits for it. Null: `in` never waits.
  std::function<void()> stop_in = nullptr;
};

class Verb {
 public:
  virtual ~Verb() = default;
  // "add", or "bank create" for a verb below another.
  virtual std::string_view name() const = 0;
  virtual std::string_view help() const = 0;
  virtual void AddFlags(FlagSet& flags) = 0;
  // What goes wrong is returned, and printed by the caller; its code decides the exit code
  // (exit_code.h).
  virtual absl::Status Run(Io& io) = 0;
};

struct Connection {
  std::shared_ptr<void> keeps;  // what the service stands on, if it stands in this process
  std::unique_ptr<rpc::MemoryService> service;
  // Whether anything answers at its address: tells a server that is not there from one that misses
  // another.
  std::function<bool()> reachable;
  std::string about = {};  // what the service stands on, in words; empty for one elsewhere
  std::unique_ptr<rpc::BackupService> backups = nullptr;  // at the same address; null: none
};
// Where a server is and how to speak to it.
struct ServerAt {
  std::string address;  // host:port
  rpc::TlsFiles tls = {};
  std::string api_key = {};  // empty: none
};
// Gives the service there. Does not need to reach it yet.
using Connector = std::function<absl::StatusOr<Connection>(const ServerAt& server)>;

// A usage error for an address that is none, or a certificate without --tls-ca; what CheckTls says
// of the files.
absl::Status CheckServer(const std::string& address, const rpc::TlsFiles& tls);

// A verb that talks to a running server: adds --server, --tls-…, --api-key-file, --timeout and,
// where the verb has a use for them, --bank and --json.
class ConnectedVerb : public Verb {
 public:
  explicit ConnectedVerb(Connector connect) : connect_(std::move(connect)) {}

  void AddFlags(FlagSet& flags) final;
  absl::Status Run(Io& io) final;

 protected:
  virtual void AddVerbFlags(FlagSet& flags) = 0;
  virtual absl::Status RunOn(Connection& connection, Io& io) = 0;
  virtual bool has_bank() const { return true; }
  virtual bool has_json() const { return true; }
  // Seconds until a call gives up, when --timeout is not given.
  virtual double default_timeout_s() const { return 60; }

  // The deadline counts from this call. Each has a request id of its own.
  rpc::CallContext NewCall() const;
  const std::string& bank() const { return bank_; }
  bool json() const { return json_; }

 private:
  Connector connect_;
  std::string server_ = "127.0.0.1:7070";
  rpc::TlsFiles tls_;
  ApiKeyFlag api_key_;
  std::string bank_ = "default";
  double timeout_s_ = 0;
  bool json_ = false;
};

// One of banks and documents, as nearly all are.
class ClientVerb : public ConnectedVerb {
 public:
  using ConnectedVerb::ConnectedVerb;

 protected:
  virtual absl::Status RunWith(rpc::MemoryService& service, Io& io) = 0;

 private:
  absl::Status RunOn(Connection& connection, Io& io) final {
    return RunWith(*connection.service, io);
  }
};

}  // namespace msa::cli

#endif  // MSA_CLI_VERB_H_

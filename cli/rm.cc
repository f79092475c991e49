// msa rm: deletes documents; each is durable when its line is printed.
#include <algorithm>
#include <ostream>

#include "cli/client_verbs.h"
#include "cli/json.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

// So many at once, so that a long list is acknowledged as it goes.
constexpr size_t kIdsPerCall = 1000;

// An id as part of a message: one of 10 kB would push the message off the screen.
std::string Shortened(const std::string& id) {
  size_t end = 80;
  if (id.size() <= end) return id;
  while (end > 0 && (id[end] & 0xC0) == 0x80) --end;  // not inside a character
  return id.substr(0, end) + "…";
}

class RmVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "rm"; }
  std::string_view help() const override { return "Delete documents"; }

 protected:
  void AddVerbFlags(FlagSet& flags) override { flags.Positional("ids", &ids_, "Documents' ids"); }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    for (size_t begin = 0; begin < ids_.size(); begin += kIdsPerCall) {
      const size_t end = std::min(ids_.size(), begin + kIdsPerCall);
      MSA_ASSIGN_OR_RETURN(
          const std::vector<rpc::DeleteResult> results,
          service.DeleteDocuments(NewCall(), bank(),
                                  {ids_.begin() + static_cast<std::ptrdiff_t>(begin),
                                   ids_.begin() + static_cast<std::ptrdiff_t>(end)}));
      for (const rpc::DeleteResult& result : results) Report(result, io);
    }
    return failure_;
  }

 private:
  void Report(const rpc::DeleteResult& result, Io& io) {
    failure_.Update(result.status);
    if (json()) {
      Json line = {{"id", result.id}};
      if (result.status.ok()) {
        line["revision"] = result.revision;
      } else {
        line["error"] = ToJson(result.status);
      }
      io.out << Dump(line) << "\n";
    } else if (result.status.ok()) {
      io.out << "deleted " << result.id << " (revision " << result.revision << ")\n";
    } else {
      io.err << Shortened(result.id) << ": " << result.status.message() << "\n";
    }
  }

  std::vector<std::string> ids_;
  absl::Status failure_;  // the first; the others were deleted all the same
};

}  // namespace

std::unique_ptr<Verb> MakeRmVerb(const Connector& connect) {
  return std::make_unique<RmVerb>(connect);
}

}  // namespace msa::cli

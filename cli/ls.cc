// msa ls: a bank's documents by id.
#include <algorithm>
#include <ostream>
#include <utility>

#include "absl/strings/str_format.h"
#include "cli/client_verbs.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "common/limits.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

class LsVerb : public ClientVerb {
 public:
  using ClientVerb::ClientVerb;
  std::string_view name() const override { return "ls"; }
  std::string_view help() const override { return "List a bank's documents"; }

 protected:
  void AddVerbFlags(FlagSet& flags) override {
    flags.AddBounded("--limit", &limit_, 0, INT32_MAX, "Documents to list at most, 0 for all");
  }

  absl::Status RunWith(rpc::MemoryService& service, Io& io) override {
    std::string page_token;
    int64_t listed = 0;
    bool first = true;
    do {
      const int64_t wanted = limit_ > 0 ? limit_ - listed : kMaxPageSize;
      if (wanted <= 0) break;
      MSA_ASSIGN_OR_RETURN(
          const rpc::DocumentPage page,
          service.ListDocuments(NewCall(), bank(),
                                static_cast<int32_t>(std::min<int64_t>(wanted, kMaxPageSize)),
                                page_token));
      if (std::exchange(first, false) && !json()) {
        io.out << absl::StrFormat("%-40s %8s %8s %7s %5s  %s\n", "ID", "REVISION", "TOKENS",
                                  "CHUNKS", "PARTS", "TITLE");
      }
      for (const rpc::DocumentInfo& info : page.documents) Print(info, io);
      listed += static_cast<int64_t>(page.documents.size());
      page_token = page.next_page_token;
    } while (!page_token.empty());
    if (!json()) io.err << WithCommas(listed) << " documents\n";
    return absl::OkStatus();
  }

 private:
  void Print(const rpc::DocumentInfo& info, Io& io) const {
    if (json()) {
      io.out << Dump(ToJson(info)) << "\n";
      return;
    }
    io.out << absl::StrFormat("%-40s %8d %8d %7d %5d  %s\n", info.id, info.revision,
                              info.num_tokens(), info.num_chunks(), info.parts.size(), info.title);
  }

  int32_t limit_ = 0;
};

}  // namespace

std::unique_ptr<Verb> MakeLsVerb(const Connector& connect) {
  return std::make_unique<LsVerb>(connect);
}

}  // namespace msa::cli

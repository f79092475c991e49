#include "rpc/admission.h"

#include <string>
#include <utility>

#include "common/strings.h"

namespace msa::rpc {
namespace {

using auth::Right;

enum class Where {
  kBank,        // on the bank that the call names
  kEverywhere,  // on all banks: the call names none, or none that could be told from the message
  kNowhere,     // any key will do: what is given is what the key may see
};

struct Rule {
  std::string_view service;
  std::string_view method;
  Right right;
  Where where;
};

// docs/operations.md has the same table, for those who make keys.
constexpr char kMemory[] = "msa.v1.MemoryService";
constexpr Rule kRules[] = {
    {kMemory, "CreateBank", Right::kAdmin, Where::kBank},
    {kMemory, "DeleteBank", Right::kAdmin, Where::kBank},
    {kMemory, "SetCoarse", Right::kAdmin, Where::kBank},
    {kMemory, "AddDocuments", Right::kWrite, Where::kBank},
    {kMemory, "DeleteDocuments", Right::kWrite, Where::kBank},
    {kMemory, "GetDocument", Right::kRead, Where::kBank},
    {kMemory, "ListDocuments", Right::kRead, Where::kBank},
    {kMemory, "Retrieve", Right::kRead, Where::kBank},
    {kMemory, "Generate", Right::kRead, Where::kBank},
    {kMemory, "Stats", Right::kRead, Where::kBank},
    {kMemory, "ListBanks", Right::kRead, Where::kNowhere},
    {kMemory, "GetModel", Right::kRead, Where::kNowhere},
    // A copy of a data folder has all banks in it.
    {"msa.v1.BackupService", "CreateBackup", Right::kAdmin, Where::kEverywhere},
    {"msa.v1.BackupService", "ListBackups", Right::kAdmin, Where::kEverywhere},
    {"msa.v1.BackupService", "DeleteBackup", Right::kAdmin, Where::kEverywhere},
    // Compute nodes ask a router: a session is a number, whose bank the message does not say.
    {"msa.v1.RoutingService", "OpenSession", Right::kRead, Where::kEverywhere},
    {"msa.v1.RoutingService", "CloseSession", Right::kRead, Where::kEverywhere},
    {"msa.v1.RoutingService", "Route", Right::kRead, Where::kEverywhere},
    {"msa.v1.RoutingService", "Rank", Right::kRead, Where::kEverywhere},
    {"msa.v1.RoutingService", "GetParts", Right::kRead, Where::kEverywhere},
};

const Rule* RuleFor(std::string_view service, std::string_view method) {
  for (const Rule& rule : kRules) {
    if (rule.service == service && rule.method == method) return &rule;
  }
  return nullptr;
}

absl::Status Denied(const std::string& why) { return absl::PermissionDeniedError(why); }

}  // namespace

absl::StatusOr<Admission> Admit(const auth::KeyRing& keys, std::string_view service,
                                std::string_view method, std::string_view authorization) {
  constexpr std::string_view kScheme = "Bearer ";
  if (!authorization.starts_with(kScheme)) {
    return absl::UnauthenticatedError(
        "this server wants an API key: give msa one in MSA_API_KEY or with --api-key-file, or send "
        "the metadata 'authorization: Bearer KEY'");
  }
  auto key = keys.Find(authorization.substr(kScheme.size()));
  if (key == nullptr) {
    return absl::UnauthenticatedError(
        "this server does not know the API key: it was mistyped or taken back; ask for another");
  }
  const Rule* rule = RuleFor(service, method);
  if (rule == nullptr) {
    return Denied(StrCat("no API key opens ", service, "/", method, " on this server"));
  }
  if (rule->where == Where::kEverywhere && !key->MayEverywhere(rule->right)) {
    return Denied(StrCat("API key '", key->name, "' has not the right '",
                         auth::RightName(rule->right), "' on all banks ('*'), which ", method,
                         " needs"));
  }
  return Admission{std::move(key), rule->right};
}

absl::Status CheckBank(const CallContext& context, std::string_view bank) {
  const auto& [key, right] = context.admission;
  if (key == nullptr) return Denied("no API key let this call in");
  if (key->May(right, bank)) return absl::OkStatus();
  return Denied(StrCat("API key '", key->name, "' has not the right '", auth::RightName(right),
                       "' on bank '", bank.substr(0, 128), "': ask for a key that has it"));
}

}  // namespace msa::rpc

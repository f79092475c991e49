// Who may call what, where a server has API keys: the one place that decides.
//
// `Admit` looks at the key and the method before a message is read; the bank is known only then,
// and `Guarded` asks for it in front of the service. A method that is not in the table of
// admission.cc is refused; one that `Guarded` does not ask for does not compile.
#ifndef MSA_RPC_ADMISSION_H_
#define MSA_RPC_ADMISSION_H_

#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "auth/key_ring.h"
#include "rpc/call_context.h"
#include "rpc/memory_service.h"

namespace msa::rpc {

// `authorization`: what the client sent under that name, "Bearer KEY"; empty for nothing.
// UNAUTHENTICATED without a key of the ring, PERMISSION_DENIED for a method that it does not open.
absl::StatusOr<Admission> Admit(const auth::KeyRing& keys, std::string_view service,
                                std::string_view method, std::string_view authorization);

// PERMISSION_DENIED, the same whether there is such a bank or not, when the key that let the call
// in has not the right that its method needs there; for a call that no key let in, too.
absl::Status CheckBank(const CallContext& context, std::string_view bank);

// `service`, borrowed, for those who may: each call is checked against the bank that it is then
// made with, and a list of banks has only those that the key may read.
std::unique_ptr<MemoryService> Guarded(MemoryService* service);

}  // namespace msa::rpc

#endif  // MSA_RPC_ADMISSION_H_

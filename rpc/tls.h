// TLS of connections, in files' words: PEM, read again when they change. Free of gRPC headers.
#ifndef MSA_RPC_TLS_H_
#define MSA_RPC_TLS_H_

#include <string>

#include "absl/status/status.h"

namespace msa::rpc {

// Paths. A server speaks TLS when it has a certificate, a client when it has certificates to trust.
struct TlsFiles {
  std::string ca = {};           // those that sign peers' certificates
  std::string certificate = {};  // of this process, then those between it and a ca's
  std::string key = {};          // the certificate's

  bool serves() const { return !certificate.empty(); }
  bool connects() const { return !ca.empty(); }
  // Whoever connects must have a certificate that the ca signed.
  bool mutual() const { return serves() && connects(); }
};

// INVALID_ARGUMENT naming the flag (--tls-ca, --tls-cert, --tls-key): one of certificate and key
// alone, or a file that holds none; NOT_FOUND for one that cannot be read.
absl::Status CheckTls(const TlsFiles& files);

}  // namespace msa::rpc

#endif  // MSA_RPC_TLS_H_

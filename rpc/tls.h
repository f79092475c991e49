// TLS of connections, in files' words: PEM, read again when they change. Free of gRPC headers.
#ifndef MSA_RPC_TLS_H_
#define MSA_RPC_TLS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace msa::rpc {

// Paths. A server speaks TLS when it has a certificate, a client when it has certificates to trust.
struct TlsFiles {
  std::string ca = {};           // those that sign peers' certificates
  std::string certificate = {};  // of this process, then those between it and a ca's
  std::string key = {};          // the certificate's
  absl::Duration look_every = absl::Seconds(10);  // at the files, for what has changed

  bool serves() const { return !certificate.empty(); }
  bool connects() const { return !ca.empty(); }
  // Whoever connects must have a certificate that the ca signed.
  bool mutual() const { return serves() && connects(); }
};

// What the files hold, PEM; empty for what is not named.
struct TlsText {
  std::string ca = {};
  std::string pair = {};  // certificates, then their key
};

// INVALID_ARGUMENT naming the flag (--tls-ca, --tls-cert, --tls-key) and the file: one of
// certificate and key alone, a file that holds none or a broken one, a certificate that has
// expired, a key that is not the certificate's; for a file that cannot be read what ReadFile says.
absl::StatusOr<TlsText> ReadTls(const TlsFiles& files);
absl::Status CheckTls(const TlsFiles& files);

// INVALID_ARGUMENT for certificates to trust without one to serve with: it would serve plain text.
absl::Status CheckServes(const TlsFiles& files);

}  // namespace msa::rpc

#endif  // MSA_RPC_TLS_H_

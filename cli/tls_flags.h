// --tls-ca, --tls-cert and --tls-key, of servers and of clients.
#ifndef MSA_CLI_TLS_FLAGS_H_
#define MSA_CLI_TLS_FLAGS_H_

#include "cli/flags.h"
#include "rpc/tls.h"

namespace msa::cli {

inline void AddServerTlsFlags(FlagSet& flags, rpc::TlsFiles* files) {
  flags.Add("--tls-cert", &files->certificate,
            "This server's certificate, PEM: it speaks TLS only; read again when it changes");
  flags.Add("--tls-key", &files->key, "The certificate's key, PEM");
  flags.Add("--tls-ca", &files->ca,
            "Certificates, PEM, one of which must have signed those of all who connect, and of "
            "the servers it connects to");
}

inline void AddClientTlsFlags(FlagSet& flags, rpc::TlsFiles* files) {
  flags.Add("--tls-ca", &files->ca,
            "Certificates, PEM, one of which signed the server's: speak TLS");
  flags.Add("--tls-cert", &files->certificate, "Certificate to show a server that wants one, PEM");
  flags.Add("--tls-key", &files->key, "The certificate's key, PEM");
}

}  // namespace msa::cli

#endif  // MSA_CLI_TLS_FLAGS_H_

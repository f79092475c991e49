// gRPC's credentials of TlsFiles.
#ifndef MSA_RPC_TLS_CREDENTIALS_H_
#define MSA_RPC_TLS_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "rpc/tls.h"

namespace msa::rpc {

// Plain text for files that name nothing to trust, or no certificate. The files are looked at
// again and again; those in order are used for connections from then on, else those before
// (TlsStage).
std::shared_ptr<grpc::ChannelCredentials> ClientCredentials(const TlsFiles& files);
std::shared_ptr<grpc::ServerCredentials> ServerCredentials(const TlsFiles& files);

}  // namespace msa::rpc

#endif  // MSA_RPC_TLS_CREDENTIALS_H_

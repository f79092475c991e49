// gRPC's credentials of TlsFiles.
#ifndef MSA_RPC_TLS_CREDENTIALS_H_
#define MSA_RPC_TLS_CREDENTIALS_H_

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "rpc/tls.h"

namespace msa::rpc {

// Plain text for files that name nothing to trust, or no certificate. Each has a thread that looks
// at the files: make one for all connections to a peer.
std::shared_ptr<grpc::ChannelCredentials> ClientCredentials(const TlsFiles& files);
std::shared_ptr<grpc::ServerCredentials> ServerCredentials(const TlsFiles& files);

}  // namespace msa::rpc

#endif  // MSA_RPC_TLS_CREDENTIALS_H_

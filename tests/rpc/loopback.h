// A server on a free port of 127.0.0.1 for whatever a test has, and the options of its clients.
#ifndef MSA_TESTS_RPC_LOOPBACK_H_
#define MSA_TESTS_RPC_LOOPBACK_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "rpc/grpc_server.h"
#include "rpc/remote.h"

namespace msa::rpc {

// `implementations`: up to one of each interface, borrowed.
template <class... Implementations>
std::unique_ptr<GrpcServer> ServeLoopback(Implementations*... implementations) {
  GrpcServer::Builder builder;
  (builder.Add(implementations), ...);
  auto server = builder.Start("127.0.0.1:0");
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

inline RemoteOptions ClientOf(const GrpcServer& server, std::string name = "") {
  RemoteOptions options;
  options.address = absl::StrCat("127.0.0.1:", server.port());
  options.name = std::move(name);
  return options;
}

inline CallContext Within(absl::Duration time) {
  CallContext context;
  context.deadline = absl::Now() + time;
  return context;
}

}  // namespace msa::rpc

#endif  // MSA_TESTS_RPC_LOOPBACK_H_

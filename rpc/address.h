// Where a server is: "host:port", "[v6]:port" or "unix:path". gRPC itself takes what is none of
// these in silence: a missing port becomes 443, 99999 wraps round to 34463.
#ifndef MSA_RPC_ADDRESS_H_
#define MSA_RPC_ADDRESS_H_

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace msa::rpc {

// INVALID_ARGUMENT beginning with `what` ("--server", "shards[0].address") for any other form.
// Ports are min_port to 65535: 0, "a free one", is for those who listen.
absl::Status CheckAddress(std::string_view what, std::string_view address, int min_port = 1);

// UNAVAILABLE when a server could not listen there now, saying why: for those who have something
// long to do before they listen. Of unix sockets and names that do not resolve nothing is said.
absl::Status CheckFree(const std::string& address);
// The same when listening failed where `flag` says.
absl::Status CannotListen(std::string_view address, std::string_view flag = "--listen");

// Of a "host:port" that CheckAddress takes; a v6 host comes without its brackets.
std::pair<std::string, int> HostAndPort(std::string_view address);

// Whether only this machine can reach it.
bool IsLoopback(std::string_view address);

}  // namespace msa::rpc

#endif  // MSA_RPC_ADDRESS_H_

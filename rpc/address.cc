#include "rpc/address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "common/strings.h"

namespace msa::rpc {
namespace {

constexpr int kMaxPort = 65535;

// What stands before the last colon; a v6 address without its brackets.
std::string_view Host(std::string_view address) {
  std::string_view host = address.substr(0, address.rfind(':'));
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return host;
}

// Names, numbers and, in brackets, v6 addresses. That a name exists is seen when it is used.
bool IsHost(std::string_view host) {
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    return !host.empty() && host.find_first_of("[] /") == std::string_view::npos;
  }
  return !host.empty() && host.find_first_of("[]:/ \t\n") == std::string_view::npos;
}

// Digits alone: SimpleAtoi would take a sign and spaces.
bool IsPort(std::string_view text, int min_port) {
  int port = 0;
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos &&
         absl::SimpleAtoi(ToAbsl(text), &port) && port >= min_port && port <= kMaxPort;
}

// True where it cannot be tried.
bool IsFree(const addrinfo& at) {
  const int fd = socket(at.ai_family, at.ai_socktype, at.ai_protocol);
  if (fd < 0) return true;
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));  // as gRPC does
  const bool free = bind(fd, at.ai_addr, at.ai_addrlen) == 0;
  close(fd);
  return free;
}

}  // namespace

absl::Status CheckAddress(std::string_view what, std::string_view address, int min_port) {
  if (address.starts_with("unix:") && address.size() > 5) return absl::OkStatus();
  const size_t colon = address.rfind(':');
  if (colon != std::string_view::npos && IsHost(address.substr(0, colon)) &&
      IsPort(address.substr(colon + 1), min_port)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(StrCat(what, " is '", address.substr(0, 256),
                                           "': use host:port with a port from ", min_port, " to ",
                                           kMaxPort, ", or unix:path"));
}

absl::Status CheckFree(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (address.starts_with("unix:") || colon == std::string::npos) return absl::OkStatus();
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const std::string host(Host(address));
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) {
    return absl::OkStatus();
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    if (IsFree(*one)) return absl::OkStatus();  // gRPC is content with one of them
  }
  return CannotListen(address);
}

absl::Status CannotListen(std::string_view address, std::string_view flag) {
  return absl::UnavailableError(
      StrCat("cannot listen on ", address,
             ": another program uses the port, or the address is not one of this machine; "
             "stop that program or give another ",
             flag));
}

std::pair<std::string, int> HostAndPort(std::string_view address) {
  int port = 0;
  (void)absl::SimpleAtoi(ToAbsl(address.substr(address.rfind(':') + 1)), &port);
  return {std::string(Host(address)), port};
}

bool IsLoopback(std::string_view address) {
  if (address.starts_with("unix:")) return true;
  const std::string_view host = Host(address);
  // A name may begin with 127. and lead anywhere.
  const bool is_number = host.find_first_not_of("0123456789.") == std::string_view::npos;
  return host == "localhost" || host == "::1" || (is_number && host.starts_with("127."));
}

}  // namespace msa::rpc

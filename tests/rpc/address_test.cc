#include "rpc/address.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace msa::rpc {
namespace {

using ::testing::HasSubstr;

TEST(Address, IsHostAndPortOrASocket) {
  for (const char* good : {"127.0.0.1:7070", "localhost:1", "[::1]:7070", "a-b.example.org:65535",
                           "unix:/tmp/socket"}) {
    EXPECT_TRUE(CheckAddress("--server", good).ok()) << good;
  }
  for (const char* bad : {"",           "7070",
                          "localhost",  "127.0.0.1",
                          ":7070",      "host:",
                          "host:0",     "host:65536",
                          "host:99999", "host:-1",
                          "host:+1",    "host: 1",
                          "host:1x",    "not an address:1",
                          "::1:7070",   "[]:7070",
                          "[::1]",      "http://host:80",
                          "unix:",      "host:18446744073709551617"}) {
    const absl::Status status = CheckAddress("--server", bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--server is '")) << bad;
  }
  EXPECT_TRUE(CheckAddress("--listen", "localhost:0", 0).ok());
}

TEST(Address, IsFreeUntilAnotherListensThere) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(at);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&at), length), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&at), &length), 0);
  const std::string address = "127.0.0.1:" + std::to_string(ntohs(at.sin_port));
  const absl::Status taken = CheckFree(address);
  EXPECT_EQ(taken.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(taken.message()), HasSubstr("cannot listen on " + address));
  close(fd);
  EXPECT_TRUE(CheckFree(address).ok());
  EXPECT_EQ(CheckFree("192.0.2.1:7070").code(), absl::StatusCode::kUnavailable) << "not ours";
  EXPECT_TRUE(CheckFree("127.0.0.1:0").ok());
  EXPECT_TRUE(CheckFree("unix:/tmp/socket").ok());
}

TEST(Address, HasAHostAndAPort) {
  EXPECT_EQ(HostAndPort("localhost:7070"), std::pair(std::string("localhost"), 7070));
  EXPECT_EQ(HostAndPort("[::1]:0"), std::pair(std::string("::1"), 0));
}

TEST(Address, KnowsWhatOnlyThisMachineReaches) {
  for (const char* local :
       {"127.0.0.1:7070", "127.9.9.9:1", "localhost:7070", "[::1]:7070", "unix:/tmp/socket"}) {
    EXPECT_TRUE(IsLoopback(local)) << local;
  }
  for (const char* open : {"0.0.0.0:7070", "[::]:7070", "10.0.0.1:7070", "example.org:7070",
                           "128.0.0.1:1", ":7070", "127.example.org:1"}) {
    EXPECT_FALSE(IsLoopback(open)) << open;
  }
}

}  // namespace
}  // namespace msa::rpc

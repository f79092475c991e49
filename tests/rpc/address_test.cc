#include "rpc/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace msa::rpc {
namespace {

using ::testing::HasSubstr;

TEST(Address, IsHostAndPortOrASocket) {
  for (const char* good : {"127.0.0.1:7070", "localhost:1", "[::1]:7070", "a-b.example.org:65535",
                           "unix:/tmp/socket"}) {
    EXPECT_TRUE(CheckAddress("--server", good).ok()) << good;
  }
  for (const char* bad :
       {"", "7070", "localhost", "127.0.0.1", ":7070", "host:", "host:0", "host:65536", "host:99999",
        "host:-1", "host:+1", "host: 1", "host:1x", "not an address:1", "::1:7070", "[]:7070",
        "[::1]", "http://host:80", "unix:", "host:18446744073709551617"}) {
    const absl::Status status = CheckAddress("--server", bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--server is '")) << bad;
  }
  EXPECT_TRUE(CheckAddress("--listen", "localhost:0", 0).ok());
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

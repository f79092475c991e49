// A call that a gRPC client would not make: HTTP/2 by hand, its request left unfinished.
#ifndef MSA_TESTS_RPC_RAW_CALL_H_
#define MSA_TESTS_RPC_RAW_CALL_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <string>

namespace msa::rpc {

class RawCall {
 public:
  // To 127.0.0.1; `path` as "/msa.v1.ShardService/ListBanks". Announces a message of a MiB and
  // sends `bytes` of it. REQUIRES: bytes < 65,000, what is taken of one who does not ask.
  RawCall(int port, const std::string& path, size_t bytes)
      : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    std::string out = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(kSettings, 0, 0, "");
    out += Frame(kHeaders, kEndHeaders, 1,
                 Header(":method", "POST") + Header(":scheme", "http") + Header(":path", path) +
                     Header(":authority", "test") + Header("te", "trailers") +
                     Header("content-type", "application/grpc"));
    std::string message = std::string("\0\0\x10\0\0", 5) + std::string(bytes, 'x');
    for (size_t at = 0; at < message.size(); at += kMaxFrame) {
      out += Frame(kData, 0, 1, message.substr(at, kMaxFrame));
    }
    for (size_t at = 0; at < out.size();) {
      const ssize_t sent = send(socket_, out.data() + at, out.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) break;  // it may have been ended already
      at += static_cast<size_t>(sent);
    }
  }
  ~RawCall() { close(socket_); }
  RawCall(const RawCall&) = delete;
  RawCall& operator=(const RawCall&) = delete;

  // All that came until `text` did or the server hung up; nothing for 20 s fails the test.
  std::string AwaitText(const std::string& text) {
    while (received_.find(text) == std::string::npos && Receive(20000)) {
    }
    return received_;
  }

  // Whether the server has ended the call or the connection, as far as is known in `wait_ms`.
  bool Ended(int wait_ms) {
    pollfd ready = {socket_, POLLIN, 0};
    while (!HasEnd() && !hung_up_ && poll(&ready, 1, wait_ms) == 1) Receive(0);
    return hung_up_ || HasEnd();
  }

 private:
  static constexpr char kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kGoAway = 7;
  static constexpr char kEndHeaders = 4;
  static constexpr size_t kMaxFrame = 16384, kFrameHeader = 9;

  static std::string Frame(char type, char flags, char stream, const std::string& payload) {
    const size_t size = payload.size();
    const std::string head = {static_cast<char>(size >> 16),
                              static_cast<char>(size >> 8),
                              static_cast<char>(size),
                              type,
                              flags,
                              0,
                              0,
                              0,
                              stream};
    return head + payload;
  }
  // Neither compressed nor remembered.
  static std::string Header(const std::string& name, const std::string& value) {
    return std::string(1, '\0') + static_cast<char>(name.size()) + name +
           static_cast<char>(value.size()) + value;
  }

  bool Receive(int wait_ms) {
    pollfd ready = {socket_, POLLIN, 0};
    if (poll(&ready, 1, wait_ms) != 1) {
      ADD_FAILURE() << "the server says nothing";
      return false;
    }
    char bytes[4096];
    const ssize_t got = recv(socket_, bytes, sizeof(bytes), 0);
    hung_up_ = got <= 0;
    if (!hung_up_) received_.append(bytes, static_cast<size_t>(got));
    return !hung_up_;
  }

  bool HasEnd() const {
    for (size_t at = 0; at + kFrameHeader <= received_.size();) {
      if (received_[at + 3] == kReset || received_[at + 3] == kGoAway) return true;
      size_t size = 0;
      for (int i = 0; i < 3; ++i) size = size << 8 | static_cast<uint8_t>(received_[at + i]);
      at += kFrameHeader + size;
    }
    return false;
  }

  const int socket_;
  std::string received_;
  bool hung_up_ = false;
};

}  // namespace msa::rpc

#endif  // MSA_TESTS_RPC_RAW_CALL_H_

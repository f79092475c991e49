// TLS both ways and one way, with certificates that openssl makes for the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/memory_node/temp_folder.h"
#include "tests/rpc/loopback.h"
#include "tests/support/fake_shard.h"

namespace msa::rpc {
namespace {

using ::testing::HasSubstr;

class TlsLoopback : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("openssl version > /dev/null 2>&1") != 0) GTEST_SKIP() << "no openssl";
    MakeCa("ca");
    MakeCa("stranger");
    MakeCertificate("server", "ca", "IP:127.0.0.1");
    MakeCertificate("client", "ca", "DNS:client");
    MakeCertificate("forged", "stranger", "IP:127.0.0.1");
  }

  std::string Path(const std::string& name) const {
    return absl::StrCat(folder_.path(), "/", name);
  }

  void MakeCa(const std::string& name) {
    Run(absl::StrCat("openssl req -x509 ", kNewKey, " -keyout ", Path(name), ".key -out ",
                     Path(name), ".pem -days 2 -subj /CN=", name));
  }

  void MakeCertificate(const std::string& name, const std::string& ca, const std::string& of) {
    std::ofstream(Path(name + ".ext")) << "subjectAltName=" << of << "\n";
    Run(absl::StrCat("openssl req ", kNewKey, " -keyout ", Path(name), ".key -out ", Path(name),
                     ".csr -subj /CN=", name));
    Run(absl::StrCat("openssl x509 -req -in ", Path(name), ".csr -CA ", Path(ca), ".pem -CAkey ",
                     Path(ca), ".key -CAcreateserial -days 2 -extfile ", Path(name), ".ext -out ",
                     Path(name), ".pem"));
  }

  TlsFiles Files(const std::string& ca, const std::string& certificate = "") const {
    TlsFiles files;
    if (!ca.empty()) files.ca = Path(ca + ".pem");
    if (certificate.empty()) return files;
    files.certificate = Path(certificate + ".pem");
    files.key = Path(certificate + ".key");
    return files;
  }

  void Serve(const TlsFiles& files) {
    ServerOptions options;
    options.tls = files;
    GrpcServer::Builder builder(options);
    builder.Add(&shard_);
    auto server = builder.Start("127.0.0.1:0");
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::unique_ptr<MemoryShard> Client(const TlsFiles& files) {
    RemoteOptions options = ClientOf(*server_);
    options.tls = files;
    return MakeRemoteMemoryShard(options);
  }

  static absl::Status Ask(MemoryShard& client) {
    return client.ListBanks(Within(absl::Seconds(5))).status();
  }
  absl::Status Ask(const TlsFiles& files) { return Ask(*Client(files)); }

  static constexpr char kNewKey[] = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

  msa::testing::TempFolder folder_;
  msa::testing::FakeShard shard_;
  std::unique_ptr<GrpcServer> server_;

 private:
  static void Run(const std::string& command) {
    ASSERT_EQ(std::system(absl::StrCat(command, " > /dev/null 2>&1").c_str()), 0) << command;
  }
};

TEST_F(TlsLoopback, AServerWithACertificateIsTrustedByItsSigner) {
  Serve(Files("", "server"));
  EXPECT_TRUE(Ask(Files("ca")).ok()) << Ask(Files("ca"));
  EXPECT_TRUE(absl::IsUnavailable(Ask(Files("stranger"))));
  EXPECT_TRUE(absl::IsUnavailable(Ask({})));  // in plain text
}

TEST_F(TlsLoopback, OnePlainServerIsNoTlsServer) {
  Serve({});
  EXPECT_TRUE(absl::IsUnavailable(Ask(Files("ca"))));
  EXPECT_TRUE(Ask({}).ok());
}

TEST_F(TlsLoopback, BothWaysAClientNeedsACertificateToo) {
  Serve(Files("ca", "server"));
  EXPECT_TRUE(Ask(Files("ca", "client")).ok()) << Ask(Files("ca", "client"));
  EXPECT_TRUE(absl::IsUnavailable(Ask(Files("ca"))));
  EXPECT_TRUE(absl::IsUnavailable(Ask(Files("ca", "forged"))));
}

TEST_F(TlsLoopback, ACertificateOfAnotherAddressIsRefused) {
  Serve(Files("", "client"));
  EXPECT_TRUE(absl::IsUnavailable(Ask(Files("ca"))));
}

TEST_F(TlsLoopback, FilesAreReadAgain) {
  Serve(Files("", "server"));
  ASSERT_TRUE(absl::IsUnavailable(Ask(Files("stranger"))));
  for (const char* end : {".key", ".pem"}) {
    std::filesystem::rename(Path(absl::StrCat("forged", end)), Path(absl::StrCat("server", end)));
  }
  const absl::Time until = absl::Now() + absl::Seconds(60);
  const auto client = Client(Files("stranger"));
  while (!Ask(*client).ok() && absl::Now() < until) std::this_thread::yield();
  EXPECT_TRUE(Ask(Files("stranger")).ok());
  EXPECT_TRUE(absl::IsUnavailable(Ask(Files("ca"))));
}

TEST_F(TlsLoopback, WhatIsNoCertificateIsToldBeforeServing) {
  const auto message = [](const TlsFiles& files) { return std::string(CheckTls(files).message()); };
  EXPECT_TRUE(CheckTls({}).ok());
  EXPECT_TRUE(CheckTls(Files("ca", "server")).ok()) << CheckTls(Files("ca", "server"));
  EXPECT_THAT(message({.certificate = Path("server.pem")}), HasSubstr("--tls-key together"));
  EXPECT_TRUE(absl::IsNotFound(CheckTls({.ca = Path("no.pem")})));
  EXPECT_THAT(message({.ca = Path("ca.key")}), HasSubstr("--tls-ca: "));
  EXPECT_THAT(message({.certificate = Path("server.pem"), .key = Path("server.pem")}),
              HasSubstr("PRIVATE KEY"));
}

}  // namespace
}  // namespace msa::rpc

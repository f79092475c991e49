// TLS both ways and one way, with certificates that openssl makes for the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "rpc/tls_stage.h"
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

  void MakeCertificate(const std::string& name, const std::string& ca, const std::string& of,
                       int days = 2) {
    std::ofstream(Path(name + ".ext")) << "subjectAltName=" << of << "\n";
    Run(absl::StrCat("openssl req ", kNewKey, " -keyout ", Path(name), ".key -out ", Path(name),
                     ".csr -subj /CN=", name));
    Run(absl::StrCat("openssl x509 -req -in ", Path(name), ".csr -CA ", Path(ca), ".pem -CAkey ",
                     Path(ca), ".key -CAcreateserial -days ", days, " -extfile ", Path(name),
                     ".ext -out ", Path(name), ".pem"));
  }

  TlsFiles Files(const std::string& ca, const std::string& certificate = "") const {
    TlsFiles files;
    files.look_every = kLookEvery;
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

  // One half of a renewal.
  void Renew(const std::string& from, const std::string& to, const char* end) {
    std::filesystem::rename(Path(from + end), Path(to + end));
  }

  static constexpr absl::Duration kLookEvery = absl::Milliseconds(100);
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
  Renew("forged", "server", ".key");
  // Longer than until the files are looked at again and gRPC, each second, takes over what was
  // found: half a renewal ends no handshake.
  const absl::Duration taken_over = 2 * kLookEvery + absl::Seconds(1);
  for (const absl::Time until = absl::Now() + taken_over; absl::Now() < until;) {
    const absl::Status status = Ask(Files("ca"));
    ASSERT_TRUE(status.ok()) << status;
  }
  Renew("forged", "server", ".pem");
  const absl::Time until = absl::Now() + absl::Seconds(60);
  const auto client = Client(Files("stranger"));
  while (!Ask(*client).ok() && absl::Now() < until) std::this_thread::yield();
  EXPECT_TRUE(Ask(Files("stranger")).ok());
  EXPECT_TRUE(absl::IsUnavailable(Ask(Files("ca"))));
}

std::string Held(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST_F(TlsLoopback, WhatIsInOrderIsKeptUntilAllIsInOrderAgain) {
  TlsStage stage(Files("ca", "server"));
  const TlsFiles staged = stage.staged();
  const TlsText before = *ReadTls(Files("ca", "server"));
  EXPECT_EQ(staged.certificate, staged.key);
  EXPECT_EQ(Held(staged.key), before.pair);
  EXPECT_EQ(Held(staged.ca), before.ca);

  Renew("forged", "server", ".key");
  const absl::Status half = stage.Look();
  EXPECT_THAT(std::string(half.message()), HasSubstr("server.key"));
  EXPECT_THAT(std::string(half.message()), HasSubstr("server.pem"));
  EXPECT_EQ(Held(staged.key), before.pair);

  Renew("forged", "server", ".pem");
  std::ofstream(Path("ca.pem"), std::ios::trunc) << "-----BEGIN CERTIF";
  EXPECT_FALSE(stage.Look().ok());
  EXPECT_EQ(Held(staged.key), before.pair);
  EXPECT_EQ(Held(staged.ca), before.ca);

  Renew("stranger", "ca", ".pem");
  EXPECT_TRUE(stage.Look().ok());
  EXPECT_NE(Held(staged.key), before.pair);
  EXPECT_EQ(Held(staged.key), ReadTls(Files("ca", "server"))->pair);
  EXPECT_NE(Held(staged.ca), before.ca);
  std::filesystem::remove(Path("server.key"));
  EXPECT_TRUE(absl::IsNotFound(stage.Look()));
  EXPECT_TRUE(CheckTls(staged).ok()) << CheckTls(staged);
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

TEST_F(TlsLoopback, AFolderIsNoFile) {
  const TlsFiles good = Files("ca", "server");
  for (std::string TlsFiles::*which : {&TlsFiles::ca, &TlsFiles::certificate, &TlsFiles::key}) {
    TlsFiles files = good;
    files.*which = folder_.path();
    const absl::Status status = CheckTls(files);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(folder_.path() + ": it is a folder"));
  }
}

TEST_F(TlsLoopback, APairThatCannotServeIsToldBeforeServing) {
  const auto refused = [](const TlsFiles& files) {
    const absl::Status status = CheckTls(files);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  const std::string other = refused({.certificate = Path("server.pem"), .key = Path("client.key")});
  EXPECT_THAT(other, HasSubstr(Path("server.pem")));
  EXPECT_THAT(other, HasSubstr(Path("client.key")));

  MakeCertificate("old", "ca", "IP:127.0.0.1", -1);
  EXPECT_THAT(refused(Files("", "old")), HasSubstr("old.pem has expired"));

  // A second certificate that was cut short, and a key.
  std::ofstream(Path("server.pem"), std::ios::app) << Held(Path("ca.pem")).substr(0, 200);
  EXPECT_THAT(refused(Files("", "server")), HasSubstr("certificate 2 in " + Path("server.pem")));
  EXPECT_THAT(refused({.ca = Path("server.pem")}), HasSubstr("--tls-ca: certificate 2"));
  std::filesystem::resize_file(Path("client.key"), 100);
  EXPECT_THAT(refused(Files("", "client")), HasSubstr(Path("client.key")));
}

TEST_F(TlsLoopback, AServerDoesNotServePlainTextForWantOfACertificate) {
  EXPECT_TRUE(absl::IsInvalidArgument(CheckServes(Files("ca"))));
  EXPECT_THAT(std::string(CheckServes(Files("ca")).message()), HasSubstr("--tls-cert"));
  for (const TlsFiles& files : {TlsFiles(), Files("", "server"), Files("ca", "server")}) {
    EXPECT_TRUE(CheckServes(files).ok());
  }
}

}  // namespace
}  // namespace msa::rpc

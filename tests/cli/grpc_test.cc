// The same command lines over loopback gRPC: what a script sees does not depend on the wire.
#include <gmock/gmock.h>

#include "cli/connect.h"
#include "cli/server_process.h"
#include "rpc/grpc_server.h"
#include "tests/cli/cli_fixture.h"

namespace msa::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class GrpcCliTest : public CliTest {
 protected:
  GrpcCliTest() {
    connect_ = GrpcConnector();
    rpc::GrpcServer::Builder builder;
    builder.Add(static_cast<rpc::MemoryService*>(&service_));
    server_process_ = *builder.Start("127.0.0.1:0");
    SetEnvironment("MSA_SERVER", "127.0.0.1:" + std::to_string(server_process_->port()));
  }

  std::unique_ptr<rpc::GrpcServer> server_process_;
};

TEST_F(GrpcCliTest, EveryVerbGoesThrough) {
  const std::string two =
      "{\"id\":\"ke\",\"title\":\"Kenya\",\"text\":\"airports é\",\"metadata\":{\"y\":1}}\n"
      "{\"id\":\"no\",\"text\":\"fjords\"}\n";
  ASSERT_EQ(Msa({"add", "--json", "-"}, two), 0) << err_;
  EXPECT_EQ(OutLines()[0]["id"], "ke");
  EXPECT_EQ(OutLines()[1]["revision"], 1);
  ASSERT_EQ(Msa({"ls", "--json"}), 0) << err_;
  EXPECT_EQ(OutLines()[0]["metadata"]["y"], 1);
  EXPECT_EQ(OutLines()[0]["tokens"], 3);
  ASSERT_EQ(Msa({"get", "--json", "ke"}), 0) << err_;
  EXPECT_EQ(OutLines()[0]["text"], "airports é");
  ASSERT_EQ(Msa({"retrieve", "--json", "fjords"}), 0) << err_;
  EXPECT_EQ(OutLines()[0]["documents"][0]["id"], "no");
  ASSERT_EQ(Msa({"ask", "--json", "--top-k", "3", "fjords"}), 0) << err_;
  EXPECT_EQ(OutLines().back()["answer"], "fjords");
  EXPECT_EQ(service_.last_generate().top_k, 3);
  EXPECT_FALSE(service_.last_generate().max_rounds.has_value());
  ASSERT_EQ(Msa({"stats", "--json"}), 0) << err_;
  ASSERT_EQ(Msa({"model", "--json"}), 0) << err_;
  EXPECT_EQ(OutLines()[0]["fingerprint"], std::string(32, '5'));
  EXPECT_EQ(OutLines()[0]["retrieval_mode"], "router");
  EXPECT_EQ(OutLines()[0]["default_bank"]["router_layers"], Json::array({3, 7}));
  EXPECT_FALSE(OutLines()[0]["default_bank"].contains("name"));
  ASSERT_EQ(Msa({"model"}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("routes in layers 3, 7\n"));
  ASSERT_EQ(Msa({"bank", "create", "--json", "--content-precision", "fp8", "b"}), 0) << err_;
  ASSERT_EQ(Msa({"bank", "rm", "b"}), 0) << err_;
  ASSERT_EQ(Msa({"rm", "--json", "no"}), 0) << err_;
  EXPECT_EQ(Msa({"get", "no"}), 3);
}

TEST_F(GrpcCliTest, ErrorsKeepTheirCodesAndWords) {
  EXPECT_EQ(Msa({"ls", "--bank", "nope"}), 3);
  EXPECT_THAT(err_, HasSubstr("no bank 'nope'"));
  EXPECT_EQ(Msa({"add", "--json", "-"}, "{\"id\":\"e\",\"text\":\"\"}\n"), 5);
  EXPECT_EQ(OutLines()[0]["error"]["code"], "INVALID_ARGUMENT");
  service_.FailWith(absl::UnavailableError("shard 'b' does not answer"));
  EXPECT_EQ(Msa({"ask", "q"}), 4);
  EXPECT_THAT(err_, HasSubstr("shard 'b'"));
  EXPECT_THAT(err_, Not(HasSubstr("msa serve"))) << "this server is there";
}

TEST_F(GrpcCliTest, AServerThatIsGoneIsToldHowToBeStarted) {
  server_process_.reset();
  EXPECT_EQ(Msa({"ls", "--timeout", "5"}), 4);
  EXPECT_THAT(err_, HasSubstr("msa serve --data-dir"));
}

}  // namespace
}  // namespace msa::cli

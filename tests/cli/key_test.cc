// msa key …, and how the other verbs come by a key.
#include <gmock/gmock.h>

#include "auth/key_ring.h"
#include "tests/cli/cli_fixture.h"

namespace msa::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class KeyCliTest : public CliTest {
 protected:
  KeyCliTest() {
    SetEnvironment("MSA_API_KEYS", file_);
    connect_ = [this](const ServerAt& server) -> absl::StatusOr<Connection> {
      api_key_ = server.api_key;
      return Connection{.keeps = nullptr,
                        .service = std::make_unique<BorrowedService>(service_),
                        .reachable = [] { return true; }};
    };
  }
  std::string Line() const { return out_.substr(0, out_.find('\n')); }

  const std::string file_ = folder_ + "/keys.json";
  std::string api_key_ = "not asked";
};

TEST_F(KeyCliTest, AKeyIsPrintedOnceAndKeptAsItsHash) {
  ASSERT_EQ(Msa({"key", "create", "--read", "*", "--write", "notes", "--admin", "team-*", "ana"}),
            0)
      << err_;
  const std::string secret = Line();
  EXPECT_TRUE(auth::CheckSecret(secret).ok()) << secret;
  EXPECT_THAT(err_, HasSubstr("made key 'ana' (read *, write notes, admin team-*)"));
  EXPECT_THAT(err_, Not(HasSubstr(secret)));
  std::ifstream in(file_);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  EXPECT_THAT(text, Not(HasSubstr(secret.substr(4))));
  const auto key = (*auth::KeyRing::Open(file_))->Find(secret);
  ASSERT_NE(key, nullptr);
  EXPECT_EQ(key->name, "ana");
  EXPECT_TRUE(key->May(auth::Right::kAdmin, "team-x"));
  EXPECT_TRUE(key->May(auth::Right::kWrite, "notes"));
  EXPECT_FALSE(key->May(auth::Right::kWrite, "other"));
  ASSERT_EQ(Msa({"key", "ls"}), 0);
  EXPECT_EQ(out_, "ana: read *, write notes, admin team-*\n");
}

TEST_F(KeyCliTest, ScriptsReadJson) {
  ASSERT_EQ(Msa({"key", "create", "--json", "--read", "b", "ana"}), 0) << err_;
  EXPECT_EQ(OutLines()[0]["name"], "ana");
  EXPECT_TRUE(auth::CheckSecret(OutLines()[0]["key"].get<std::string>()).ok());
  ASSERT_EQ(Msa({"key", "ls", "--json"}), 0);
  EXPECT_EQ(OutLines()[0]["rights"][0]["bank"], "b");
  EXPECT_EQ(OutLines()[0]["rights"][0]["right"], "read");
  ASSERT_EQ(Msa({"key", "rm", "--json", "ana"}), 0);
  EXPECT_EQ(OutLines()[0]["name"], "ana");
}

TEST_F(KeyCliTest, AKeyIsTakenBackByItsName) {
  ASSERT_EQ(Msa({"key", "create", "--read", "b", "ana"}), 0) << err_;
  ASSERT_EQ(Msa({"key", "create", "--read", "b", "bo"}), 0) << err_;
  const std::string bo = Line();
  EXPECT_EQ(Msa({"key", "rm", "ana"}), 0) << err_;
  EXPECT_EQ(Msa({"key", "rm", "ana"}), 3);
  EXPECT_THAT(err_, HasSubstr("no key 'ana': see msa key ls"));
  ASSERT_EQ(Msa({"key", "ls"}), 0);
  EXPECT_EQ(out_, "bo: read b\n");
  EXPECT_NE((*auth::KeyRing::Open(file_))->Find(bo), nullptr);
}

TEST_F(KeyCliTest, WhatCannotBeMadeIsSaid) {
  EXPECT_EQ(Msa({"key", "create", "ana"}), 2);
  EXPECT_THAT(err_, HasSubstr("--read, --write or --admin"));
  EXPECT_EQ(Msa({"key", "ls"}), 3) << "there is none yet";
  EXPECT_THAT(err_, HasSubstr("msa key create makes it"));
  ASSERT_EQ(Msa({"key", "create", "--read", "b", "ana"}), 0) << err_;
  EXPECT_EQ(Msa({"key", "create", "--read", "c", "ana"}), 5);
  EXPECT_THAT(err_, HasSubstr("there is a key 'ana'"));
  EXPECT_EQ(Msa({"key", "create", "--read", "b", "--write", "b", "bo"}), 5);
  EXPECT_THAT(err_, HasSubstr("bank 'b' comes twice"));
  EXPECT_EQ(Msa({"key", "create", "--read", std::string(129, 'b'), "bo"}), 5);
  EXPECT_EQ(Msa({"key"}), 2);
  EXPECT_THAT(err_, HasSubstr("Verbs: create ls rm"));
}

TEST_F(KeyCliTest, TheKeyComesFromAFileElseFromTheEnvironment) {
  const std::string one = *auth::NewSecret(), two = *auth::NewSecret();
  ASSERT_EQ(Msa({"bank", "ls"}), 0) << err_;
  EXPECT_EQ(api_key_, "");
  SetEnvironment("MSA_API_KEY", one);
  ASSERT_EQ(Msa({"bank", "ls"}), 0) << err_;
  EXPECT_EQ(api_key_, one);
  ASSERT_EQ(Msa({"bank", "ls", "--api-key-file", Write("key", two + "\n")}), 0) << err_;
  EXPECT_EQ(api_key_, two);
}

TEST_F(KeyCliTest, WhatIsNoKeyIsNotSentAndNotPrinted) {
  const std::string wrong = "hunter2\n-----";
  EXPECT_EQ(Msa({"bank", "ls", "--api-key-file", Write("key", wrong)}), 2);
  EXPECT_THAT(err_, HasSubstr("this is no API key"));
  EXPECT_THAT(err_, Not(HasSubstr("hunter2")));
  EXPECT_EQ(Msa({"bank", "ls", "--api-key-file", Write("empty", "")}), 3);
  EXPECT_EQ(Msa({"bank", "ls", "--api-key-file", folder_ + "/none"}), 3);
  SetEnvironment("MSA_API_KEY", "hunter2");
  EXPECT_EQ(Msa({"bank", "ls"}), 2);
  EXPECT_THAT(err_, HasSubstr("MSA_API_KEY: this is no API key"));
  EXPECT_EQ(api_key_, "not asked");
  EXPECT_EQ(Msa({"bank", "ls", "--api-key", *auth::NewSecret()}), 2) << "no flag takes a key";
}

}  // namespace
}  // namespace msa::cli

#include "auth/api_key.h"

#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "common/strings.h"

namespace msa::auth {
namespace {

// FIPS 180-4's examples and the digest of nothing.
TEST(Sha256, EqualsPublishedVectors) {
  for (const auto& [text, hex] : std::initializer_list<std::pair<std::string, std::string>>{
           {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
           {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
           {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
           {std::string(1000000, 'a'),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}}) {
    EXPECT_EQ(absl::BytesToHexString(Sha256(text)), hex) << text.size();
  }
}

TEST(Secret, IsNewEachTimeAndOfItsForm) {
  const std::string one = *NewSecret(), two = *NewSecret();
  EXPECT_NE(one, two);
  EXPECT_EQ(one.size(), 68u);
  EXPECT_TRUE(CheckSecret(one).ok());
}

TEST(Secret, OfAnotherFormIsRefusedAndNotRepeated) {
  const std::string good = *NewSecret();
  for (const std::string& bad : {std::string(), std::string("hunter2"), good.substr(1), good + "0",
                                 good + "\n", "msa_" + std::string(64, 'G')}) {
    const absl::Status status = CheckSecret(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad;
    EXPECT_EQ(status.message().find("hunter2"), std::string::npos);
  }
}

ApiKey WithGrants(std::vector<Grant> grants) {
  return {.name = "k", .sha256 = {}, .grants = std::move(grants)};
}

TEST(Rights, EachHasThoseBelowItInIt) {
  for (const Right has : {Right::kRead, Right::kWrite, Right::kAdmin}) {
    const ApiKey key = WithGrants({{"notes", has}});
    for (const Right wanted : {Right::kRead, Right::kWrite, Right::kAdmin}) {
      EXPECT_EQ(key.May(wanted, "notes"), wanted <= has);
      EXPECT_FALSE(key.May(wanted, "other"));
    }
    EXPECT_EQ(*ParseRight(RightName(has)), has);
  }
  EXPECT_FALSE(ParseRight("owner").ok());
}

TEST(Rights, CoverABankByItsNameOrItsBeginning) {
  const ApiKey key = WithGrants({{"notes", Right::kRead}, {"team-*", Right::kWrite}});
  for (const char* bank : {"team-", "team-a", "team-*"}) EXPECT_TRUE(key.May(Right::kWrite, bank));
  for (const char* bank : {"", "team", "tea", "Team-a", "notes2", "note", "*"}) {
    EXPECT_FALSE(key.May(Right::kRead, bank)) << bank;
  }
  EXPECT_FALSE(key.May(Right::kWrite, "notes"));
}

TEST(Rights, AStarInTheMiddleIsALetter) {
  const ApiKey key = WithGrants({{"a*b", Right::kRead}});
  EXPECT_TRUE(key.May(Right::kRead, "a*b"));
  EXPECT_FALSE(key.May(Right::kRead, "aXb"));
}

TEST(Rights, TheHighestOfThoseThatCoverCounts) {
  const ApiKey key = WithGrants({{"*", Right::kRead}, {"mine", Right::kAdmin}});
  EXPECT_TRUE(key.May(Right::kAdmin, "mine"));
  EXPECT_FALSE(key.May(Right::kWrite, "yours"));
}

TEST(Rights, EverywhereIsAStarAlone) {
  EXPECT_TRUE(WithGrants({{"*", Right::kRead}}).MayEverywhere(Right::kRead));
  EXPECT_FALSE(WithGrants({{"*", Right::kRead}}).MayEverywhere(Right::kWrite));
  EXPECT_FALSE(WithGrants({{"a*", Right::kAdmin}}).MayEverywhere(Right::kRead));
  EXPECT_FALSE(WithGrants({}).MayEverywhere(Right::kRead));
}

}  // namespace
}  // namespace msa::auth

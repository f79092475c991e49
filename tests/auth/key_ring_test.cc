#include "auth/key_ring.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "auth/key_file.h"
#include "tests/memory_node/temp_folder.h"

namespace msa::auth {
namespace {

class KeyRingTest : public ::testing::Test {
 protected:
  void Keep(const std::vector<std::string>& secrets) {
    ASSERT_TRUE(ChangeKeys(path_, [&](std::vector<ApiKey>* keys) {
                  keys->clear();
                  for (const std::string& secret : secrets) {
                    keys->push_back({"of " + secret, Sha256(secret), {{"b", Right::kRead}}});
                  }
                  return absl::OkStatus();
                }).ok());
  }
  // Looks only when it is told to.
  void Open() { ring_ = *KeyRing::Open(path_, absl::Hours(1)); }

  msa::testing::TempFolder folder_;
  const std::string path_ = folder_.path() + "/keys.json";
  std::unique_ptr<KeyRing> ring_;
};

TEST_F(KeyRingTest, FindsEachKeyAndNoOther) {
  Keep({"first", "second", "third"});
  Open();
  for (const std::string secret : {"first", "second", "third"}) {
    ASSERT_NE(ring_->Find(secret), nullptr) << secret;
    EXPECT_EQ(ring_->Find(secret)->name, "of " + secret);
  }
  for (const std::string secret : {"", "firs", "first ", "First", "of first"}) {
    EXPECT_EQ(ring_->Find(secret), nullptr) << secret;
  }
  EXPECT_EQ(ring_->Find(Sha256("first")), nullptr) << "the hash is no key";
}

TEST_F(KeyRingTest, WithoutAFileThereIsNone) {
  EXPECT_TRUE(absl::IsNotFound(KeyRing::Open(path_).status()));
}

TEST_F(KeyRingTest, TakesOverWhatTheFileHolds) {
  Keep({"old"});
  Open();
  const auto held = ring_->Find("old");
  Keep({"new"});
  EXPECT_NE(ring_->Find("old"), nullptr) << "not looked yet";
  ring_->Look();
  EXPECT_EQ(ring_->Find("old"), nullptr);
  EXPECT_NE(ring_->Find("new"), nullptr);
  EXPECT_EQ(held->name, "of old") << "a call under way keeps its key";
}

TEST_F(KeyRingTest, KeepsTheKeysBeforeAFileThatIsNotInOrder) {
  Keep({"old"});
  Open();
  const auto break_it = [&](const std::string& how, const std::function<void()>& with) {
    ::testing::internal::CaptureStderr();
    with();
    ring_->Look();
    ring_->Look();
    const std::string log = ::testing::internal::GetCapturedStderr();
    const size_t line = log.find("the API keys are not in order");
    EXPECT_NE(line, std::string::npos) << how;
    EXPECT_EQ(log.find("the API keys are not in order", line + 1), std::string::npos) << "once";
    EXPECT_NE(ring_->Find("old"), nullptr) << how;
  };
  break_it("damaged", [&] { std::ofstream(path_) << "{"; });
  break_it("gone", [&] { unlink(path_.c_str()); });
  Keep({"new"});
  break_it("writable", [&] { chmod(path_.c_str(), 0666); });
  chmod(path_.c_str(), 0600);
  ring_->Look();
  EXPECT_EQ(ring_->Find("old"), nullptr);
}

TEST_F(KeyRingTest, LooksByItself) {
  Keep({"old"});
  ring_ = *KeyRing::Open(path_, absl::Milliseconds(1));
  Keep({"new"});
  const absl::Time until = absl::Now() + absl::Seconds(60);
  while (ring_->Find("new") == nullptr && absl::Now() < until) std::this_thread::yield();
  EXPECT_NE(ring_->Find("new"), nullptr);
}

}  // namespace
}  // namespace msa::auth

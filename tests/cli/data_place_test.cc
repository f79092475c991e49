#include "cli/data_place.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace msa::cli {
namespace {

class DataPlaceTest : public ::testing::Test {
 protected:
  DataPlaceTest() : folder_(::testing::TempDir() + "msa_place_XXXXXX") {
    if (mkdtemp(folder_.data()) == nullptr) ADD_FAILURE() << "no temporary folder";
  }
  ~DataPlaceTest() override { std::filesystem::remove_all(folder_); }

  bool Claim(const rpc::ShardPlace& place, bool filled = true) {
    const absl::Status status = ClaimPlace(folder_, place, filled);
    EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status)) << status;
    return status.ok();
  }

  std::string folder_;
};

TEST_F(DataPlaceTest, AFilledFolderStaysWhereItWas) {
  EXPECT_TRUE(Claim({1, 3, 1024})) << "filled before places were kept";
  EXPECT_TRUE(Claim({1, 3, 1024}));
  EXPECT_FALSE(Claim({2, 3, 1024}));
  EXPECT_FALSE(Claim({1, 4, 1024}));
  EXPECT_FALSE(Claim({1, 3, 512}));
  EXPECT_FALSE(Claim({}));
  EXPECT_TRUE(Claim({1, 3, 1024})) << "what was refused changes nothing";
}

TEST_F(DataPlaceTest, AnEmptyFolderMayGoAnywhere) {
  EXPECT_TRUE(Claim({1, 3, 1024}, /*filled=*/false));
  EXPECT_TRUE(Claim({0, 2, 1024}, /*filled=*/false));
  EXPECT_TRUE(Claim({0, 2, 1024}));
  EXPECT_FALSE(Claim({1, 3, 1024}));
}

TEST_F(DataPlaceTest, SlotsOfOneShardDoNotMatter) {
  EXPECT_TRUE(Claim({}));
  EXPECT_TRUE(Claim({0, 1, 16}));
}

TEST_F(DataPlaceTest, ADamagedPlaceOfAFilledFolderIsRefused) {
  std::ofstream(folder_ + "/place.json") << "{\"shard\":";
  EXPECT_FALSE(Claim({1, 3, 1024}));
  EXPECT_TRUE(Claim({1, 3, 1024}, /*filled=*/false));
  EXPECT_TRUE(Claim({1, 3, 1024}));
  EXPECT_FALSE(Claim({2, 3, 1024}));
  std::filesystem::remove(folder_ + "/place.json");
  std::filesystem::create_directory(folder_ + "/place.json");  // every read of it fails
  EXPECT_FALSE(Claim({1, 3, 1024}));
}

TEST_F(DataPlaceTest, AnUnwritablePlaceStopsNothing) {
  EXPECT_TRUE(ClaimPlace(folder_ + "/none", {}, true).ok());
}

}  // namespace
}  // namespace msa::cli

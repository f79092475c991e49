#include "cli/model_paths.h"

#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"

namespace msa::cli {
namespace {

namespace fs = std::filesystem;

class ModelPathsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Where the temporary folder is itself reached by a link, paths are compared as they lead.
    root_ = fs::canonical(::testing::TempDir()) / "model_paths_test";
    fs::remove_all(root_);
    fs::create_directories(root_ / "store" / "m");
    fs::create_directories(root_ / "models");
    fs::create_directory_symlink(root_ / "store" / "m", root_ / "models" / "link");
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string MakeAdapter(const std::string& folder) {
    fs::create_directories(root_ / folder);
    std::ofstream(root_ / folder / "adapter_config.json") << "{}";
    return (root_ / folder).string();
  }
  std::string Path(const std::string& relative) { return (root_ / relative).string(); }

  fs::path root_;
};

TEST_F(ModelPathsTest, AdapterBesideTheModel) {
  EXPECT_EQ(FindAdapter(Path("store/m")), "");
  fs::create_directories(root_ / "store" / "m-msa");  // empty: no adapter
  EXPECT_EQ(FindAdapter(Path("store/m")), "");
  const std::string adapter = MakeAdapter("store/m-msa");
  EXPECT_EQ(FindAdapter(Path("store/m")), adapter);
  EXPECT_EQ(FindAdapter(Path("store/m/")), adapter);
  EXPECT_EQ(FindAdapter(Path("store/../store/m")), adapter);
}

TEST_F(ModelPathsTest, ALinkHasItsAdapterBesideItOrWhereItLeads) {
  const std::string of_target = MakeAdapter("store/m-msa");
  EXPECT_EQ(FindAdapter(Path("models/link")), of_target);
  const std::string of_link = MakeAdapter("models/link-msa");
  EXPECT_EQ(FindAdapter(Path("models/link")), of_link);
  EXPECT_EQ(FindAdapter(Path("models/link/")), of_link);
}

}  // namespace
}  // namespace msa::cli

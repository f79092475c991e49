#include "cli/model_paths.h"

#include <cstdlib>
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
    std::string folder = (fs::canonical(::testing::TempDir()) / "model_paths_XXXXXX").string();
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    root_ = folder;
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

// A bundle, or the tree, brings an adapter for a model that lies anywhere.
TEST_F(ModelPathsTest, AdapterOfOurOwnModelsFolder) {
  const fs::path before = fs::current_path();
  fs::current_path(root_);
  fs::create_directories(root_ / "store" / "Some-Model");
  EXPECT_EQ(FindAdapter(Path("store/Some-Model")), "");
  MakeAdapter("models/some-model-msa");
  EXPECT_EQ(FindAdapter(Path("store/Some-Model")), "models/some-model-msa");
  EXPECT_EQ(FindAdapter(Path("store/m")), "");
  const std::string beside = MakeAdapter("store/Some-Model-msa");
  EXPECT_EQ(FindAdapter(Path("store/Some-Model")), beside);
  fs::current_path(before);
}

}  // namespace
}  // namespace msa::cli

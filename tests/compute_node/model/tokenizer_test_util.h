// What the tokenizer tests share: files of the source tree, tokenizers made of golden ones by a
// patch.
#ifndef MSA_TESTS_COMPUTE_NODE_MODEL_TOKENIZER_TEST_UTIL_H_
#define MSA_TESTS_COMPUTE_NODE_MODEL_TOKENIZER_TEST_UTIL_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "common/strings.h"
#include "compute_node/model/tokenizer.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node::testing {

inline std::string SourcePath(const std::string& relative) {
  return std::string(MSA_SOURCE_DIR) + "/" + relative;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline nlohmann::json ReadJson(const std::string& path) {
  return nlohmann::json::parse(ReadFile(path));
}

// A folder of this process, removed at the end of the test.
class TempFolder {
 public:
  TempFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            StrCat("msa_tokenizer_test_", getpid(), "_", count++);
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }

  // Writes a file and returns its path.
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

inline std::unique_ptr<Tokenizer> MustLoad(const std::string& path) {
  auto tokenizer = Tokenizer::Load(path);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

inline std::unique_ptr<Tokenizer> LoadJson(const nlohmann::json& json) {
  const TempFolder folder;
  return MustLoad(folder.Write("tokenizer.json", json.dump()));
}

// A golden tokenizer changed by a JSON merge patch (RFC 7396).
inline std::unique_ptr<Tokenizer> LoadPatched(const std::string& base,
                                              const nlohmann::json& patch) {
  nlohmann::json json = ReadJson(SourcePath("tests/golden/tokenizers/" + base));
  json.merge_patch(patch);
  return LoadJson(json);
}

// A variant of tokenizer_recipe.json.
inline std::unique_ptr<Tokenizer> LoadVariant(const std::string& name) {
  const nlohmann::json recipe =
      ReadJson(SourcePath("tests/compute_node/model/tokenizer_recipe.json"));
  for (const nlohmann::json& variant : recipe["variants"]) {
    if (variant["name"] == name) return LoadPatched(variant["base"], variant["patch"]);
  }
  ADD_FAILURE() << "no variant " << name;
  return nullptr;
}

}  // namespace msa::compute_node::testing

#endif  // MSA_TESTS_COMPUTE_NODE_MODEL_TOKENIZER_TEST_UTIL_H_

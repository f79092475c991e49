// A folder of a test's own, removed with it.
#ifndef MSA_TESTS_MEMORY_NODE_TEMP_FOLDER_H_
#define MSA_TESTS_MEMORY_NODE_TEMP_FOLDER_H_

#include <stdlib.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "common/check.h"

namespace msa::testing {

class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "msa_test_XXXXXX").string();
    MSA_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace msa::testing

#endif  // MSA_TESTS_MEMORY_NODE_TEMP_FOLDER_H_

#include "tests/fuzz/target.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "common/check.h"

namespace msa::fuzz {

void CheckRefusal(const absl::Status& status) {
  MSA_CHECK(!status.ok());
  MSA_CHECK(!status.message().empty());
}

InputFile::InputFile(std::string name) {
  folder_ = (std::filesystem::temp_directory_path() / "msa_fuzz_XXXXXX").string();
  MSA_CHECK(mkdtemp(folder_.data()) != nullptr);
  path_ = folder_ + "/" + name;
  memory_ = memfd_create(name.c_str(), MFD_CLOEXEC);
  MSA_CHECK(memory_ >= 0);
  std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(memory_), path_);
}

InputFile::~InputFile() {
  close(memory_);
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void InputFile::Write(std::string_view bytes) {
  MSA_CHECK(ftruncate(memory_, 0) == 0);
  MSA_CHECK(pwrite(memory_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
}

}  // namespace msa::fuzz

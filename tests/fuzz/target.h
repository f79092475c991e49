// What the targets of this folder share. A target is one program that hands bytes to one parser:
// its source defines LLVMFuzzerTestOneInput, as libFuzzer wants it. One thread.
#ifndef MSA_TESTS_FUZZ_TARGET_H_
#define MSA_TESTS_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

// Feeds `size` bytes to the parser. Ends the process where that is not as it should be; 0
// otherwise.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace msa::fuzz {

inline std::string_view View(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// What a refusal must have: words for whoever sent the bytes.
void CheckRefusal(const absl::Status& status);

// A file for parsers that take a path: in a folder of this process, which goes when it ends well.
// The folder has a link to a file in memory: thousands of writes to some disks take minutes.
class InputFile {
 public:
  explicit InputFile(std::string name);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // The file then holds these bytes and no others.
  void Write(std::string_view bytes);
  const std::string& folder() const { return folder_; }
  const std::string& path() const { return path_; }

 private:
  std::string folder_;
  std::string path_;
  int memory_;
};

}  // namespace msa::fuzz

#endif  // MSA_TESTS_FUZZ_TARGET_H_

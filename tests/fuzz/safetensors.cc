// Files of tensors. Of an accepted one every tensor lies in the file and takes what its shape says.
#include "common/safetensors.h"

#include "common/check.h"
#include "tests/fuzz/target.h"

namespace msa {
namespace {

void Try(const std::string& path, size_t file_bytes) {
  const auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return fuzz::CheckRefusal(file.status());
  size_t data_bytes = 0;
  for (const auto& [name, view] : (*file)->tensors()) {
    int64_t elements = 1;
    for (const int64_t size : view.shape) elements *= size;
    MSA_CHECK(elements == view.num_elements());
    data_bytes += view.data.size();
    const auto floats = (*file)->ReadFloat32(name, view.shape);
    if (!floats.ok()) fuzz::CheckRefusal(floats.status());
    const auto integers = ToInt64(view);
    if (!integers.ok()) fuzz::CheckRefusal(integers.status());
    uint8_t sum = 0;  // read every byte: a sanitizer or a fault says where it is not ours
    for (const uint8_t byte : view.data) sum += byte;
    volatile uint8_t keep = sum;
    (void)keep;
  }
  MSA_CHECK(data_bytes < file_bytes);
}

}  // namespace
}  // namespace msa

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static msa::fuzz::InputFile file("model.safetensors");
  file.Write(msa::fuzz::View(data, size));
  msa::Try(file.path(), size);
  return 0;
}

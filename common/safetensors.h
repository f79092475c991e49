// Reads one *.safetensors file: a memory map whose header was validated in full, so that every view
// it hands out lies inside the file. Format: 8 bytes header length (little-endian), JSON header
// {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {…}}, tensor bytes.
//
// Thread-safety: immutable after Open. Views live as long as the file object. The file must not be
// truncated while it is open: reading a page that is gone kills the process (as with any map).
#ifndef MSA_COMMON_SAFETENSORS_H_
#define MSA_COMMON_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace msa {

enum class TensorType : uint8_t {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kF16,
  kBF16,
  kU32,
  kI32,
  kF32,
  kU64,
  kI64,
  kF64
};

// The format's name: "F32", "BF16", ….
std::string_view TensorTypeName(TensorType type);
size_t TensorTypeBytes(TensorType type);

// One tensor of an open file: row-major, little-endian. `data` has no alignment guarantee.
struct TensorView {
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;  // empty = one scalar
  absl::Span<const uint8_t> data;

  int64_t num_elements() const { return static_cast<int64_t>(data.size() / TensorTypeBytes(type)); }
};

// out[i] = element i as float32; F32, BF16 and F16 only (exact, NaN kept), else INVALID_ARGUMENT.
// REQUIRES: out.size() == view.num_elements().
absl::Status CopyToFloat32(const TensorView& view, absl::Span<float> out);
absl::StatusOr<std::vector<float>> ToFloat32(const TensorView& view);
// Elements of an I64 tensor, else INVALID_ARGUMENT.
absl::StatusOr<std::vector<int64_t>> ToInt64(const TensorView& view);
// "[2, 3]".
std::string ShapeString(absl::Span<const int64_t> shape);

class SafetensorsFile {
 public:
  // NOT_FOUND or PERMISSION_DENIED when the file cannot be opened; INVALID_ARGUMENT, naming the
  // file, the tensor and what is wrong, when it is truncated or its header does not describe
  // exactly the bytes that follow (unknown type, shape that disagrees with its bytes, overlap,
  // hole).
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }

  // Null when there is no tensor of that name.
  const TensorView* FindOrNull(std::string_view name) const;
  // NOT_FOUND naming the tensor and the file.
  absl::StatusOr<TensorView> Find(std::string_view name) const;
  // The tensor as float32; INVALID_ARGUMENT naming both shapes when its shape is not `shape`.
  absl::StatusOr<std::vector<float>> ReadFloat32(std::string_view name,
                                                 absl::Span<const int64_t> shape) const;

 private:
  explicit SafetensorsFile(std::string path) : path_(std::move(path)) {}
  absl::Status Map();
  absl::Status ParseHeader();

  std::string path_;
  const uint8_t* map_ = nullptr;
  size_t map_bytes_ = 0;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace msa

#endif  // MSA_COMMON_SAFETENSORS_H_

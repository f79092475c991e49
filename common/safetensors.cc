#include "common/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/check.h"
#include "common/dtype.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "nlohmann/json.hpp"

namespace msa {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

// The limit of the format's own reader: a larger header is an attack or damage.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kLengthBytes = 8;

struct TypeInfo {
  TensorType type;
  std::string_view name;
  size_t bytes;
};
constexpr std::array<TypeInfo, 13> kTypes = {{{TensorType::kBool, "BOOL", 1},
                                              {TensorType::kU8, "U8", 1},
                                              {TensorType::kI8, "I8", 1},
                                              {TensorType::kU16, "U16", 2},
                                              {TensorType::kI16, "I16", 2},
                                              {TensorType::kF16, "F16", 2},
                                              {TensorType::kBF16, "BF16", 2},
                                              {TensorType::kU32, "U32", 4},
                                              {TensorType::kI32, "I32", 4},
                                              {TensorType::kF32, "F32", 4},
                                              {TensorType::kU64, "U64", 8},
                                              {TensorType::kI64, "I64", 8},
                                              {TensorType::kF64, "F64", 8}}};

const TypeInfo& Info(TensorType type) {
  for (const TypeInfo& info : kTypes) {
    if (info.type == type) return info;
  }
  MSA_CHECK(false);
  return kTypes[0];
}

std::optional<TensorType> ParseType(std::string_view name) {
  for (const TypeInfo& info : kTypes) {
    if (info.name == name) return info.type;
  }
  return std::nullopt;
}

// IEEE binary16 to binary32: exact, subnormals, infinities and NaN payloads kept.
float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1F;
  const uint32_t mantissa = half & 0x3FF;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000 | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

// Element count of `shape` times `element_bytes`; nullopt when it is not a list of non-negative
// integers or the product overflows.
std::optional<uint64_t> ShapeBytes(const nlohmann::json& shape, size_t element_bytes,
                                   std::vector<int64_t>* dims) {
  uint64_t bytes = element_bytes;
  for (const nlohmann::json& dim : shape) {
    if (!dim.is_number_unsigned()) return std::nullopt;
    const uint64_t value = dim.get<uint64_t>();
    if (value > INT64_MAX || __builtin_mul_overflow(bytes, value, &bytes)) return std::nullopt;
    dims->push_back(static_cast<int64_t>(value));
  }
  return bytes;
}

bool HasFields(const nlohmann::json& entry) {
  return entry.is_object() && entry.contains("dtype") && entry["dtype"].is_string() &&
         entry.contains("shape") && entry["shape"].is_array() && entry.contains("data_offsets") &&
         entry["data_offsets"].is_array() && entry["data_offsets"].size() == 2 &&
         entry["data_offsets"][0].is_number_unsigned() &&
         entry["data_offsets"][1].is_number_unsigned();
}

// One header entry as a view into `data`, the bytes after the header.
absl::StatusOr<TensorView> ParseEntry(const nlohmann::json& entry, absl::Span<const uint8_t> data) {
  if (!HasFields(entry)) {
    return absl::InvalidArgumentError("its header entry lacks dtype, shape or data_offsets");
  }
  const std::string type_name = entry["dtype"].get<std::string>();
  const std::optional<TensorType> type = ParseType(type_name);
  if (!type.has_value()) {
    return absl::InvalidArgumentError(StrCat("its type '", type_name, "' is not known"));
  }
  TensorView view;
  view.type = *type;
  const std::optional<uint64_t> bytes =
      ShapeBytes(entry["shape"], TensorTypeBytes(*type), &view.shape);
  if (!bytes.has_value()) {
    return absl::InvalidArgumentError("its shape is not a list of sizes that fit in memory");
  }
  const uint64_t begin = entry["data_offsets"][0].get<uint64_t>();
  const uint64_t end = entry["data_offsets"][1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return absl::InvalidArgumentError(StrCat("its bytes ", begin, "…", end, " lie outside the ",
                                             data.size(), " bytes of data: truncated file?"));
  }
  if (end - begin != *bytes) {
    return absl::InvalidArgumentError(StrCat("its shape ", ShapeString(view.shape), " of ",
                                             type_name, " takes ", *bytes, " bytes but it has ",
                                             end - begin));
  }
  view.data = data.subspan(begin, end - begin);
  return view;
}

// The format wants every data byte to belong to exactly one tensor.
absl::Status CheckCover(const std::map<std::string, TensorView, std::less<>>& tensors,
                        absl::Span<const uint8_t> data) {
  std::vector<std::pair<absl::Span<const uint8_t>, std::string_view>> extents;
  for (const auto& [name, view] : tensors) extents.emplace_back(view.data, name);
  std::sort(extents.begin(), extents.end(), [](const auto& a, const auto& b) {
    return std::make_pair(a.first.data(), a.first.size()) <
           std::make_pair(b.first.data(), b.first.size());
  });
  const uint8_t* at = data.data();
  for (const auto& [extent, name] : extents) {
    if (extent.data() < at) {
      return absl::InvalidArgumentError(StrCat("tensor '", name, "' overlaps the one before it"));
    }
    if (extent.data() > at) {
      return absl::InvalidArgumentError(
          StrCat("there is a hole before the bytes of tensor '", name, "'"));
    }
    at += extent.size();
  }
  if (at != data.data() + data.size()) {
    return absl::InvalidArgumentError(
        StrCat(data.data() + data.size() - at, " bytes at the end belong to no tensor"));
  }
  return absl::OkStatus();
}

absl::Status ErrnoStatus(const std::string& path, int error) {
  const std::string message = StrCat(path, ": ", std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

}  // namespace

std::string_view TensorTypeName(TensorType type) { return Info(type).name; }
size_t TensorTypeBytes(TensorType type) { return Info(type).bytes; }

std::string ShapeString(absl::Span<const int64_t> shape) {
  return StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status CopyToFloat32(const TensorView& view, absl::Span<float> out) {
  MSA_CHECK(static_cast<int64_t>(out.size()) == view.num_elements());
  if (view.type == TensorType::kF32) {
    if (!out.empty()) std::memcpy(out.data(), view.data.data(), view.data.size());
    return absl::OkStatus();
  }
  if (view.type != TensorType::kBF16 && view.type != TensorType::kF16) {
    return absl::InvalidArgumentError(
        StrCat("is ", TensorTypeName(view.type), "; F32, BF16 or F16 is needed"));
  }
  const bool is_half = view.type == TensorType::kF16;
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, view.data.data() + 2 * i, sizeof(bits));
    out[i] = is_half ? HalfToFloat(bits) : ToFloat(BFloat16{bits});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> ToFloat32(const TensorView& view) {
  std::vector<float> out(view.num_elements());
  MSA_RETURN_IF_ERROR(CopyToFloat32(view, absl::MakeSpan(out)));
  return out;
}

absl::StatusOr<std::vector<int64_t>> ToInt64(const TensorView& view) {
  if (view.type != TensorType::kI64) {
    return absl::InvalidArgumentError(StrCat("is ", TensorTypeName(view.type), "; I64 is needed"));
  }
  std::vector<int64_t> out(view.num_elements());
  if (!out.empty()) std::memcpy(out.data(), view.data.data(), view.data.size());
  return out;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile(path));
  MSA_RETURN_IF_ERROR(file->Map());
  if (absl::Status status = file->ParseHeader(); !status.ok()) {
    return absl::InvalidArgumentError(StrCat(
        path, " is not a valid safetensors file: ", status.message(), ". Fetch the file again."));
  }
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (map_ != nullptr) munmap(const_cast<uint8_t*>(map_), map_bytes_);
}

absl::Status SafetensorsFile::Map() {
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(path_, errno);
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(StrCat(path_, " is not a regular file"));
  }
  map_bytes_ = static_cast<size_t>(info.st_size);
  if (map_bytes_ == 0) {
    close(fd);
    return absl::OkStatus();  // ParseHeader says what is wrong with an empty file
  }
  void* map = mmap(nullptr, map_bytes_, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  close(fd);
  if (map == MAP_FAILED) return ErrnoStatus(path_, error);
  map_ = static_cast<const uint8_t*>(map);
  return absl::OkStatus();
}

absl::Status SafetensorsFile::ParseHeader() {
  if (map_bytes_ < kLengthBytes) {
    return absl::InvalidArgumentError(
        StrCat("it has ", map_bytes_, " bytes, fewer than the header's length field"));
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, map_, kLengthBytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > map_bytes_ - kLengthBytes) {
    return absl::InvalidArgumentError(StrCat("its header claims ", header_bytes,
                                             " bytes but the file has ", map_bytes_,
                                             " (header limit ", kMaxHeaderBytes, ")"));
  }
  const char* text = reinterpret_cast<const char*>(map_ + kLengthBytes);
  const nlohmann::json header =
      nlohmann::json::parse(text, text + header_bytes, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return absl::InvalidArgumentError("its header is not a JSON object");
  const absl::Span<const uint8_t> data(map_ + kLengthBytes + header_bytes,
                                       map_bytes_ - kLengthBytes - header_bytes);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) return absl::InvalidArgumentError("__metadata__ is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (value.is_string()) metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    absl::StatusOr<TensorView> view = ParseEntry(entry, data);
    if (!view.ok()) {
      return absl::InvalidArgumentError(StrCat("tensor '", name, "': ", view.status().message()));
    }
    tensors_.emplace(name, *std::move(view));
  }
  return CheckCover(tensors_, data);
}

const TensorView* SafetensorsFile::FindOrNull(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

absl::StatusOr<TensorView> SafetensorsFile::Find(std::string_view name) const {
  const TensorView* view = FindOrNull(name);
  if (view == nullptr) {
    return absl::NotFoundError(StrCat("tensor '", name, "' is not in ", path_));
  }
  return *view;
}

absl::StatusOr<std::vector<float>> SafetensorsFile::ReadFloat32(
    std::string_view name, absl::Span<const int64_t> shape) const {
  MSA_ASSIGN_OR_RETURN(const TensorView view, Find(name));
  if (absl::Span<const int64_t>(view.shape) != shape) {
    return absl::InvalidArgumentError(StrCat("tensor '", name, "' of ", path_, " has shape ",
                                             ShapeString(view.shape), "; expected ",
                                             ShapeString(shape)));
  }
  absl::StatusOr<std::vector<float>> values = ToFloat32(view);
  if (!values.ok()) {
    return absl::InvalidArgumentError(
        StrCat("tensor '", name, "' of ", path_, " ", values.status().message()));
  }
  return values;
}

}  // namespace msa

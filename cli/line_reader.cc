#include "cli/line_reader.h"

#include <zstd.h>

#include <filesystem>
#include <streambuf>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "common/strings.h"

namespace msa::cli {

// Decompresses what `file` holds, buffer by buffer.
class ZstdStreambuf : public std::streambuf {
 public:
  explicit ZstdStreambuf(std::istream& file)
      : file_(file),
        context_(ZSTD_createDCtx(), &ZSTD_freeDCtx),
        input_bytes_(ZSTD_DStreamInSize()),
        output_(ZSTD_DStreamOutSize()) {}

  const std::string& error() const { return error_; }
  uint64_t consumed_bytes() const { return consumed_bytes_; }

 protected:
  int_type underflow() override {
    while (error_.empty()) {
      if (input_.pos == input_.size && !drained_ && !Refill()) break;
      ZSTD_outBuffer out{output_.data(), output_.size(), 0};
      const size_t left = ZSTD_decompressStream(context_.get(), &out, &input_);
      if (ZSTD_isError(left)) {
        error_ = ZSTD_getErrorName(left);
        break;
      }
      // A full output buffer may hide more output that needs no further input.
      drained_ = out.pos == out.size;
      frame_open_ = left != 0;
      if (out.pos == 0) continue;
      setg(output_.data(), output_.data(), output_.data() + out.pos);
      return traits_type::to_int_type(*gptr());
    }
    return traits_type::eof();
  }

 private:
  bool Refill() {
    file_.read(input_bytes_.data(), static_cast<std::streamsize>(input_bytes_.size()));
    input_ = {input_bytes_.data(), static_cast<size_t>(file_.gcount()), 0};
    consumed_bytes_ += input_.size;
    if (input_.size == 0 && frame_open_) error_ = "the file ends in the middle of a frame";
    return input_.size > 0;
  }

  std::istream& file_;
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context_;
  std::vector<char> input_bytes_;
  std::vector<char> output_;
  ZSTD_inBuffer input_{nullptr, 0, 0};
  bool drained_ = false;
  bool frame_open_ = false;
  uint64_t consumed_bytes_ = 0;
  std::string error_;
};

LineReader::LineReader() = default;
LineReader::~LineReader() = default;

absl::StatusOr<std::unique_ptr<LineReader>> LineReader::Open(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(StrCat("no such file: ", path));
  }
  std::unique_ptr<LineReader> reader(new LineReader());
  reader->name_ = path;
  reader->file_.open(path, std::ios::binary);
  if (!reader->file_) return absl::PermissionDeniedError(StrCat("cannot read ", path));
  const uint64_t bytes = std::filesystem::file_size(path, error);
  reader->total_bytes_ = error ? 0 : bytes;  // a pipe has no size
  reader->stream_ = &reader->file_;
  if (absl::EndsWith(path, ".zst")) {
    reader->zstd_ = std::make_unique<ZstdStreambuf>(reader->file_);
    reader->zstd_stream_ = std::make_unique<std::istream>(reader->zstd_.get());
    reader->stream_ = reader->zstd_stream_.get();
  }
  return reader;
}

std::unique_ptr<LineReader> LineReader::FromStream(std::istream& stream, std::string name) {
  std::unique_ptr<LineReader> reader(new LineReader());
  reader->name_ = std::move(name);
  reader->stream_ = &stream;
  return reader;
}

bool LineReader::Next(std::string* line) {
  if (!std::getline(*stream_, *line)) return false;
  ++line_number_;
  consumed_bytes_ += line->size() + 1;
  if (!line->empty() && line->back() == '\r') line->pop_back();
  return true;
}

absl::Status LineReader::status() const {
  if (stream_->bad() || file_.bad()) {
    return absl::DataLossError(StrCat(name_, " cannot be read past line ", line_number_,
                                      ": it is no file of text, or its disk fails"));
  }
  if (zstd_ == nullptr || zstd_->error().empty()) return absl::OkStatus();
  return absl::DataLossError(StrCat(name_, " is damaged after line ", line_number_, ": ",
                                    zstd_->error(), "; fetch or make it again"));
}

uint64_t LineReader::consumed_bytes() const {
  return zstd_ == nullptr ? consumed_bytes_ : zstd_->consumed_bytes();
}

}  // namespace msa::cli

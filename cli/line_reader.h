// Lines of a text file, of a .zst file (decompressed on the fly) or of a stream. Only "\n" ends a
// line: Unicode separators inside JSON strings must not.
#ifndef MSA_CLI_LINE_READER_H_
#define MSA_CLI_LINE_READER_H_

#include <cstdint>
#include <fstream>
#include <istream>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace msa::cli {

class ZstdStreambuf;

class LineReader {
 public:
  // NOT_FOUND, or PERMISSION_DENIED, naming the path.
  static absl::StatusOr<std::unique_ptr<LineReader>> Open(const std::string& path);
  // Borrows `stream` for its own lifetime.
  static std::unique_ptr<LineReader> FromStream(std::istream& stream, std::string name);
  ~LineReader();

  // false: no line is left, or the rest cannot be read (status()).
  bool Next(std::string* line);
  absl::Status status() const;

  const std::string& name() const { return name_; }
  int64_t line_number() const { return line_number_; }  // of the last line, from 1
  // Bytes of the file taken so far, and all of it; 0 for a stream. For a progress bar.
  uint64_t consumed_bytes() const;
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  LineReader();

  std::string name_;
  std::ifstream file_;
  std::unique_ptr<ZstdStreambuf> zstd_;
  std::unique_ptr<std::istream> zstd_stream_;
  std::istream* stream_ = nullptr;
  int64_t line_number_ = 0;
  uint64_t consumed_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace msa::cli

#endif  // MSA_CLI_LINE_READER_H_

// The documents a user names: JSON lines (.jsonl, .ndjson, .json, .jsonl.zst, .json.zst, or
// standard input as "-"), .txt and .md files, folders of these. One malformed line does not stop
// the others.
#ifndef MSA_CLI_DOCUMENT_READER_H_
#define MSA_CLI_DOCUMENT_READER_H_

#include <cstdint>
#include <istream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/line_reader.h"
#include "rpc/types.h"

namespace msa::cli {

struct ReadDocument {
  std::string where;    // "file:12", or the file
  absl::Status status;  // why this one cannot be read; `document` then holds at most its id
  rpc::NewDocument document;
};

class DocumentReader {
 public:
  // Looks at every path at once: NOT_FOUND, or INVALID_ARGUMENT for a file of another kind, before
  // anything is read. A folder's files come in the order of their relative paths, which are their
  // ids. `standard_input` is borrowed.
  static absl::StatusOr<DocumentReader> Open(const std::vector<std::string>& paths,
                                             std::istream& standard_input);

  // nullopt: the end.
  std::optional<ReadDocument> Next();

  // Files of a folder that are of no kind known here, and links in it to folders or to nothing.
  int64_t skipped_files() const { return skipped_files_; }
  // For a progress bar; total 0 when standard input is among the paths.
  uint64_t consumed_bytes() const;
  uint64_t total_bytes() const { return has_stream_ ? 0 : total_bytes_; }

 private:
  struct Source {
    std::string path;  // "-" for standard input
    std::string id;    // of a text file
    bool is_lines = false;
    uint64_t bytes = 0;
  };

  explicit DocumentReader(std::istream& standard_input) : standard_input_(&standard_input) {}
  absl::Status AddPath(const std::string& path);
  absl::Status AddFolder(const std::string& path);
  void AddSource(Source source);
  std::optional<ReadDocument> NextLine();
  ReadDocument ReadTextFile(const Source& source);

  std::istream* standard_input_;
  std::vector<Source> sources_;
  size_t next_source_ = 0;
  std::unique_ptr<LineReader> lines_;  // of sources_[next_source_ - 1]
  int64_t skipped_files_ = 0;
  uint64_t done_bytes_ = 0;  // of sources read to the end
  uint64_t total_bytes_ = 0;
  bool has_stream_ = false;
};

// {"id","title","text","metadata"}; id and text are strings that must be there, metadata an object.
// INVALID_ARGUMENT says what is wrong, and keeps the id when there is one.
absl::Status ParseDocumentLine(const std::string& line, rpc::NewDocument* document);

}  // namespace msa::cli

#endif  // MSA_CLI_DOCUMENT_READER_H_

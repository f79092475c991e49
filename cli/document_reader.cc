#include "cli/document_reader.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "cli/json.h"
#include "common/file.h"
#include "common/limits.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

namespace fs = std::filesystem;

bool HasSuffix(const std::string& path, std::initializer_list<const char*> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](const char* suffix) { return absl::EndsWithIgnoreCase(path, suffix); });
}
bool IsLines(const std::string& path) {
  return HasSuffix(path, {".jsonl", ".json", ".jsonl.zst", ".json.zst", ".ndjson"});
}
bool IsText(const std::string& path) { return HasSuffix(path, {".txt", ".md"}); }

std::string AType(const Json& json) {
  const std::string type = json.type_name();
  return (type == "array" || type == "object" ? "an " : "a ") + type;
}

absl::Status TakeString(const Json& json, const char* key, bool required, std::string* value) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) {
    if (!required) return absl::OkStatus();
    return absl::InvalidArgumentError(StrCat("\"", key, "\" is missing"));
  }
  if (!found->is_string()) {
    return absl::InvalidArgumentError(
        StrCat("\"", key, "\" must be a string, not ", AType(*found)));
  }
  *value = found->get<std::string>();
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseDocumentLine(const std::string& line, rpc::NewDocument* document) {
  MSA_ASSIGN_OR_RETURN(const Json json, ParseLine(line));
  if (!json.is_object()) {
    return absl::InvalidArgumentError(StrCat("a JSON object is expected, not ", AType(json)));
  }
  MSA_RETURN_IF_ERROR(TakeString(json, "id", true, &document->id));
  MSA_RETURN_IF_ERROR(TakeString(json, "title", false, &document->title));
  MSA_RETURN_IF_ERROR(TakeString(json, "text", true, &document->text));
  if (const auto metadata = json.find("metadata"); metadata != json.end() && !metadata->is_null()) {
    if (!metadata->is_object()) {
      return absl::InvalidArgumentError(
          StrCat("\"metadata\" must be an object, not ", AType(*metadata)));
    }
    document->metadata = Dump(*metadata);
  }
  // The service would refuse them in these words; but a message of 64 MiB never reaches it, and
  // would end the stream for the documents after this one.
  MSA_RETURN_IF_ERROR(CheckSize("the document's id", document->id.size(), kMaxDocumentIdBytes));
  MSA_RETURN_IF_ERROR(CheckSize("the title", document->title.size(), kMaxDocumentTitleBytes));
  MSA_RETURN_IF_ERROR(CheckSize("the text", document->text.size(), kMaxDocumentTextBytes));
  return CheckSize("the metadata", document->metadata.size(), kMaxDocumentMetadataBytes);
}

absl::StatusOr<DocumentReader> DocumentReader::Open(const std::vector<std::string>& paths,
                                                    std::istream& standard_input) {
  DocumentReader reader(standard_input);
  for (const std::string& path : paths) MSA_RETURN_IF_ERROR(reader.AddPath(path));
  return reader;
}

absl::Status DocumentReader::AddPath(const std::string& path) {
  std::error_code error;
  if (path == "-") {
    has_stream_ = true;
    AddSource({.path = path, .id = "", .is_lines = true});
  } else if (fs::is_directory(path, error)) {
    return AddFolder(path);
  } else if (!fs::exists(path, error)) {
    return absl::NotFoundError(StrCat("no such file or folder: ", path));
  } else if (IsLines(path) || IsText(path)) {
    AddSource({.path = path, .id = path, .is_lines = IsLines(path)});
  } else {
    return absl::InvalidArgumentError(
        StrCat(path,
               " is of no kind known here: name JSON lines (.jsonl, .ndjson, .json, "
               ".jsonl.zst or .json.zst), or .txt or .md"));
  }
  return absl::OkStatus();
}

absl::Status DocumentReader::AddFolder(const std::string& path) {
  std::vector<Source> found;
  std::error_code error;
  for (fs::recursive_directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_directory(error) && !it->is_symlink(error)) continue;
    if (!it->is_regular_file(error)) {  // a link to nowhere or to a folder, a pipe
      error.clear();                    // of what the link names: it is no error of the folder
      ++skipped_files_;
      continue;
    }
    const std::string file = it->path().string();
    if (!IsLines(file) && !IsText(file)) {
      ++skipped_files_;
      continue;
    }
    const std::string id = it->path().lexically_relative(path).generic_string();
    found.push_back({.path = file, .id = id, .is_lines = IsLines(file)});
  }
  if (error) {
    return absl::PermissionDeniedError(StrCat("cannot list ", path, ": ", error.message()));
  }
  std::sort(found.begin(), found.end(),
            [](const Source& a, const Source& b) { return a.id < b.id; });
  for (Source& source : found) AddSource(std::move(source));
  return absl::OkStatus();
}

void DocumentReader::AddSource(Source source) {
  std::error_code error;
  const uint64_t bytes = source.path == "-" ? 0 : fs::file_size(source.path, error);
  source.bytes = error ? 0 : bytes;
  total_bytes_ += source.bytes;
  sources_.push_back(std::move(source));
}

uint64_t DocumentReader::consumed_bytes() const {
  return done_bytes_ + (lines_ == nullptr ? 0 : lines_->consumed_bytes());
}

std::optional<ReadDocument> DocumentReader::Next() {
  while (true) {
    if (lines_ != nullptr) {
      if (std::optional<ReadDocument> line = NextLine()) return line;
    }
    if (next_source_ == sources_.size()) return std::nullopt;
    const Source& source = sources_[next_source_++];
    if (!source.is_lines) return ReadTextFile(source);
    if (source.path == "-") {
      lines_ = LineReader::FromStream(*standard_input_, "standard input");
    } else if (auto opened = LineReader::Open(source.path); opened.ok()) {
      lines_ = *std::move(opened);
    } else {
      return ReadDocument{.where = source.path, .status = opened.status(), .document = {}};
    }
  }
}

// nullopt, with lines_ gone, at the end of the file.
std::optional<ReadDocument> DocumentReader::NextLine() {
  std::string line;
  while (lines_->Next(&line)) {
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    ReadDocument read;
    read.where = StrCat(lines_->name(), ":", lines_->line_number());
    read.status = ParseDocumentLine(line, &read.document);
    return read;
  }
  const absl::Status status = lines_->status();
  const std::string name = lines_->name();
  done_bytes_ += sources_[next_source_ - 1].bytes;
  lines_ = nullptr;
  if (status.ok()) return std::nullopt;
  return ReadDocument{.where = name, .status = status, .document = {}};
}

ReadDocument DocumentReader::ReadTextFile(const Source& source) {
  ReadDocument read;
  read.where = source.path;
  read.document.id = source.id;
  done_bytes_ += source.bytes;
  absl::StatusOr<std::string> text = ReadFile(source.path, kMaxDocumentTextBytes);
  read.status = text.status();
  if (absl::IsResourceExhausted(read.status)) {
    read.status = absl::InvalidArgumentError(
        StrCat(text.status().message(), " for one document; cut it in pieces"));
  }
  if (!text.ok()) return read;
  read.document.text = *std::move(text);
  // A mark of some editors, no part of the text. JSON lines may begin with it too.
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (read.document.text.starts_with(kByteOrderMark)) {
    read.document.text.erase(0, kByteOrderMark.size());
  }
  return read;
}

}  // namespace msa::cli

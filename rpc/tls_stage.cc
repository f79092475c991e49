#include "rpc/tls_stage.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "common/log.h"
#include "common/strings.h"

namespace msa::rpc {
namespace {

// A file in memory, -1 for none.
int FileOf(std::string_view text) {
  const int file = memfd_create("msa-tls", MFD_CLOEXEC);
  if (file < 0) return -1;
  fchmod(file, 0600);
  while (!text.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written <= 0) {
      close(file);
      return -1;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return file;
}

std::string PathOf(int file) { return StrCat("/proc/self/fd/", file); }

// `file` is another from now on, for who opens its path.
bool Replace(int file, std::string_view text) {
  const int fresh = FileOf(text);
  if (fresh < 0) return false;
  const bool replaced = dup3(fresh, file, O_CLOEXEC) == file;
  close(fresh);
  return replaced;
}

}  // namespace

TlsStage::TlsStage(TlsFiles files) : files_(std::move(files)), staged_(files_) {
  if (files_.connects()) ca_ = FileOf("");
  if (files_.serves()) pair_ = FileOf("");
  const auto usable = [](int file) { return file >= 0 && access(PathOf(file).c_str(), R_OK) == 0; };
  if ((files_.connects() && !usable(ca_)) || (files_.serves() && !usable(pair_))) {
    Log(LogLevel::kWarning,
        "no files in memory: renew certificate and key in one step, a link to their folder");
    return;
  }
  if (files_.connects()) staged_.ca = PathOf(ca_);
  if (files_.serves()) staged_.certificate = staged_.key = PathOf(pair_);
  Look().IgnoreError();
}

TlsStage::~TlsStage() {
  if (ca_ >= 0) close(ca_);
  if (pair_ >= 0) close(pair_);
}

absl::Status TlsStage::Look() {
  absl::StatusOr<TlsText> now = ReadTls(files_);
  const bool first = text_.ca.empty() && text_.pair.empty();
  if (now.ok() && now->ca != text_.ca) {
    if (ca_ >= 0 && !Replace(ca_, now->ca)) now = absl::ResourceExhaustedError("no memory");
  }
  if (now.ok() && now->pair != text_.pair) {
    if (pair_ >= 0 && !Replace(pair_, now->pair)) now = absl::ResourceExhaustedError("no memory");
  }
  if (!now.ok()) {
    if (std::string why(now.status().message()); why != complaint_) {
      complaint_ = std::move(why);
      Log(LogLevel::kWarning,
          "the files of TLS are not in order: those read before are kept in use",
          {{"why", complaint_}});
    }
    return now.status();
  }
  complaint_.clear();
  const bool news = now->ca != text_.ca || now->pair != text_.pair;
  text_ = *std::move(now);
  if (news && !first) {
    Log(LogLevel::kInfo, "the files of TLS have changed: new connections use them",
        {{"certificate", files_.certificate}, {"ca", files_.ca}});
  }
  return absl::OkStatus();
}

}  // namespace msa::rpc

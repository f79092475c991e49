#include "rpc/tls.h"

#include <fstream>
#include <iterator>
#include <string_view>

#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::rpc {
namespace {

absl::Status CheckPem(std::string_view flag, const std::string& path, std::string_view block) {
  if (path.empty()) return absl::OkStatus();
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file.good()) return absl::NotFoundError(StrCat(flag, ": cannot read ", path));
  if (text.find("-----BEGIN ") != std::string::npos && text.find(block) != std::string::npos) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(StrCat(flag, ": ", path, " has no PEM block \"", block, "\""));
}

}  // namespace

absl::Status CheckTls(const TlsFiles& files) {
  if (files.certificate.empty() != files.key.empty()) {
    return absl::InvalidArgumentError("give --tls-cert and --tls-key together");
  }
  MSA_RETURN_IF_ERROR(CheckPem("--tls-ca", files.ca, "CERTIFICATE-----"));
  MSA_RETURN_IF_ERROR(CheckPem("--tls-cert", files.certificate, "CERTIFICATE-----"));
  return CheckPem("--tls-key", files.key, "PRIVATE KEY-----");
}

}  // namespace msa::rpc

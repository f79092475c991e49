#include "rpc/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>
#include <string_view>
#include <vector>

#include "common/file.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::rpc {
namespace {

constexpr size_t kMaxFileBytes = 4u << 20;  // a system's whole list of signers has 0.2 MB

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Bio = std::unique_ptr<BIO, Free>;
using Certificate = std::unique_ptr<X509, Free>;
using Key = std::unique_ptr<EVP_PKEY, Free>;

// OpenSSL keeps errors by thread, where gRPC would find ours.
struct NoErrorsLeft {
  ~NoErrorsLeft() { ERR_clear_error(); }
};

Bio Over(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

absl::StatusOr<std::string> Read(std::string_view flag, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  if (text.ok()) return text;
  return absl::Status(text.status().code(),
                      StrCat(flag, ": ", std::string(text.status().message())));
}

absl::StatusOr<std::vector<Certificate>> Certificates(std::string_view flag,
                                                      const std::string& path,
                                                      const std::string& text) {
  ERR_clear_error();
  const Bio bio = Over(text);
  std::vector<Certificate> found;
  while (X509* next = PEM_read_bio_X509_AUX(bio.get(), nullptr, nullptr, nullptr)) {
    found.emplace_back(next);
  }
  // What ends a file without fault, too.
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
    return absl::InvalidArgumentError(StrCat(flag, ": certificate ", found.size() + 1, " in ", path,
                                             " is damaged: write the file anew"));
  }
  if (!found.empty()) return found;
  return absl::InvalidArgumentError(
      StrCat(flag, ": ", path, " holds no PEM block \"CERTIFICATE\""));
}

absl::StatusOr<Key> PrivateKey(const std::string& path, const std::string& text) {
  const Bio bio = Over(text);
  char no_password[] = "";  // nullptr would ask for one at the terminal
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, no_password));
  if (key != nullptr) return key;
  return absl::InvalidArgumentError(StrCat("--tls-key: ", path,
                                           " holds no PEM block \"PRIVATE KEY\" that can be read "
                                           "(damaged, or with a password: it must have none)"));
}

absl::StatusOr<std::string> Pair(const TlsFiles& files) {
  MSA_ASSIGN_OR_RETURN(const std::string text, Read("--tls-cert", files.certificate));
  MSA_ASSIGN_OR_RETURN(const std::vector<Certificate> chain,
                       Certificates("--tls-cert", files.certificate, text));
  MSA_ASSIGN_OR_RETURN(const std::string key_text, Read("--tls-key", files.key));
  MSA_ASSIGN_OR_RETURN(const Key key, PrivateKey(files.key, key_text));
  if (X509_check_private_key(chain[0].get(), key.get()) != 1) {
    return absl::InvalidArgumentError(
        StrCat("--tls-key: ", files.key, " is not the key of the first certificate in ",
               files.certificate, " (--tls-cert): give the key that it was made with"));
  }
  if (X509_cmp_current_time(X509_get0_notAfter(chain[0].get())) < 0) {
    return absl::InvalidArgumentError(
        StrCat("--tls-cert: the certificate in ", files.certificate, " has expired: renew it"));
  }
  const Bio pair(BIO_new(BIO_s_mem()));
  bool written = true;
  for (const Certificate& each : chain) written &= PEM_write_bio_X509(pair.get(), each.get()) == 1;
  written &=
      PEM_write_bio_PrivateKey(pair.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) == 1;
  if (!written) return absl::InternalError("OpenSSL cannot write a certificate that it read");
  char* data = nullptr;
  const auto size = static_cast<size_t>(BIO_get_mem_data(pair.get(), &data));
  return std::string(data, size);
}

}  // namespace

absl::StatusOr<TlsText> ReadTls(const TlsFiles& files) {
  const NoErrorsLeft no_errors_left;
  if (files.certificate.empty() != files.key.empty()) {
    return absl::InvalidArgumentError("give --tls-cert and --tls-key together");
  }
  TlsText text;
  if (files.connects()) {
    MSA_ASSIGN_OR_RETURN(text.ca, Read("--tls-ca", files.ca));
    MSA_RETURN_IF_ERROR(Certificates("--tls-ca", files.ca, text.ca).status());
  }
  if (files.serves()) {
    MSA_ASSIGN_OR_RETURN(text.pair, Pair(files));
  }
  return text;
}

absl::Status CheckTls(const TlsFiles& files) { return ReadTls(files).status(); }

absl::Status CheckServes(const TlsFiles& files) {
  if (files.serves() || !files.connects()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--tls-ca alone would serve plain text: give --tls-cert and --tls-key, this server's "
      "certificate and its key, too");
}

}  // namespace msa::rpc

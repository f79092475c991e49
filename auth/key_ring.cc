#include "auth/key_ring.h"

#include <openssl/crypto.h>

#include <utility>

#include "auth/key_file.h"
#include "common/log.h"
#include "common/status_macros.h"

namespace msa::auth {

absl::StatusOr<std::unique_ptr<KeyRing>> KeyRing::Open(const std::string& path,
                                                       absl::Duration interval) {
  std::unique_ptr<KeyRing> ring(new KeyRing(path));
  {
    absl::MutexLock lock(&ring->looking_);
    MSA_RETURN_IF_ERROR(ring->TakeOver());
  }
  ring->watcher_ = std::thread([raw = ring.get(), interval] { raw->Watch(interval); });
  return ring;
}

KeyRing::~KeyRing() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  if (watcher_.joinable()) watcher_.join();
}

void KeyRing::Watch(absl::Duration interval) {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&ending_), interval)) return;
    }
    Look();
  }
}

std::shared_ptr<const ApiKey> KeyRing::Find(std::string_view secret) const {
  std::shared_ptr<const Keys> keys;
  {
    absl::MutexLock lock(&mutex_);
    keys = keys_;
  }
  const std::string hash = Sha256(secret);
  const ApiKey* found = nullptr;
  for (const ApiKey& key : *keys) {
    if (CRYPTO_memcmp(key.sha256.data(), hash.data(), hash.size()) == 0) found = &key;
  }
  return {std::move(keys), found};
}

absl::Status KeyRing::TakeOver() {
  MSA_ASSIGN_OR_RETURN(std::string text, ReadKeyText(path_));
  if (text == text_) return absl::OkStatus();
  MSA_ASSIGN_OR_RETURN(Keys keys, KeysIn(path_, text));
  if (!text_.empty()) {
    Log(LogLevel::kInfo, "the API keys have changed: new calls need one of these",
        {{"file", path_}, {"keys", keys.size()}});
  }
  text_ = std::move(text);
  absl::MutexLock lock(&mutex_);
  keys_ = std::make_shared<const Keys>(std::move(keys));
  return absl::OkStatus();
}

void KeyRing::Look() {
  absl::MutexLock one_at_a_time(&looking_);
  const absl::Status status = TakeOver();
  std::string why(status.message());
  if (!status.ok() && why != complaint_) {
    Log(LogLevel::kWarning, "the API keys are not in order: those read before are kept in use",
        {{"why", why}});
  }
  complaint_ = std::move(why);
}

}  // namespace msa::auth

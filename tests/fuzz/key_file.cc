// The file of API keys, which decides who gets in. What is read is written and read the same.
#include "auth/key_file.h"

#include <string>

#include "common/check.h"
#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto keys = msa::auth::ParseKeys(msa::fuzz::View(data, size));
  if (!keys.ok()) {
    msa::fuzz::CheckRefusal(keys.status());
    return 0;
  }
  for (const msa::auth::ApiKey& key : *keys) {
    MSA_CHECK(key.sha256.size() == 32 && !key.name.empty() && !key.grants.empty());
  }
  const std::string written = msa::auth::FormatKeys(*keys);
  const auto again = msa::auth::ParseKeys(written);
  MSA_CHECK(again.ok() && again->size() == keys->size());
  MSA_CHECK(msa::auth::FormatKeys(*again) == written);
  return 0;
}

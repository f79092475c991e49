// msa key create|ls|rm.
#include <algorithm>
#include <ostream>
#include <string>
#include <utility>

#include "auth/key_file.h"
#include "cli/exit_code.h"
#include "cli/json.h"
#include "cli/key_verbs.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

using auth::ApiKey;
using auth::Right;

auto Find(std::vector<ApiKey>* keys, const std::string& name) {
  return std::find_if(keys->begin(), keys->end(),
                      [&](const ApiKey& key) { return key.name == name; });
}

// "write notes, read *"
std::string Rights(const ApiKey& key) {
  std::string text;
  for (const auth::Grant& grant : key.grants) {
    text += StrCat(text.empty() ? "" : ", ", auth::RightName(grant.right), " ", grant.bank);
  }
  return text;
}

Json ToJson(const ApiKey& key) {
  Json rights = Json::array();
  for (const auth::Grant& grant : key.grants) {
    rights.push_back({{"bank", grant.bank}, {"right", std::string(RightName(grant.right))}});
  }
  return {{"name", key.name}, {"rights", std::move(rights)}};
}

class KeyVerb : public Verb {
 public:
  void AddFlags(FlagSet& flags) override {
    flags.AddRequired("--api-keys", &file_, "The server's file of API keys");
    flags.Add("--json", &json_, "Print JSON, one object a line");
  }

 protected:
  const std::string& file() const { return file_; }
  bool json() const { return json_; }

 private:
  std::string file_;
  bool json_ = false;
};

class KeyCreateVerb : public KeyVerb {
 public:
  std::string_view name() const override { return "key create"; }
  std::string_view help() const override { return "Make an API key, print it once, keep its hash"; }

  void AddFlags(FlagSet& flags) override {
    KeyVerb::AddFlags(flags);
    flags.Positional("name", &name_, "Whose key it is; errors and lists name it");
    flags.Add("--read", &read_, "Bank whose documents it may read; 'team-*': all that begin so");
    flags.Add("--write", &write_, "Bank that it may read, and add to and delete from");
    flags.Add("--admin", &admin_, "Bank that it may write, make, delete and calibrate");
  }

  absl::Status Run(Io& io) override {
    ApiKey key{.name = name_, .sha256 = {}, .grants = {}};
    for (const auto& [banks, right] :
         {std::pair(&read_, Right::kRead), {&write_, Right::kWrite}, {&admin_, Right::kAdmin}}) {
      for (const std::string& bank : *banks) key.grants.push_back({bank, right});
    }
    if (key.grants.empty()) {
      return UsageError("say what the key may do: --read, --write or --admin with a bank, or '*'");
    }
    MSA_ASSIGN_OR_RETURN(const std::string secret, auth::NewSecret());
    key.sha256 = auth::Sha256(secret);
    MSA_RETURN_IF_ERROR(auth::ChangeKeys(file(), [&](std::vector<ApiKey>* keys) -> absl::Status {
      if (Find(keys, name_) != keys->end()) {
        return absl::AlreadyExistsError(
            StrCat("there is a key '", name_, "': take another name, or msa key rm it first"));
      }
      keys->push_back(key);
      return absl::OkStatus();
    }));
    if (json()) {
      Json line = ToJson(key);
      line["key"] = secret;
      io.out << Dump(line) << "\n";
      return absl::OkStatus();
    }
    io.out << secret << "\n";
    io.err << "made key '" << name_ << "' (" << Rights(key)
           << "); it is shown this once: keep it where only its user reads it\n";
    return absl::OkStatus();
  }

 private:
  std::string name_;
  std::vector<std::string> read_, write_, admin_;
};

class KeyLsVerb : public KeyVerb {
 public:
  std::string_view name() const override { return "key ls"; }
  std::string_view help() const override { return "List API keys and their rights"; }

  absl::Status Run(Io& io) override {
    MSA_ASSIGN_OR_RETURN(const std::vector<ApiKey> keys, auth::ReadKeys(file()));
    for (const ApiKey& key : keys) {
      io.out << (json() ? Dump(ToJson(key)) : StrCat(key.name, ": ", Rights(key))) << "\n";
    }
    return absl::OkStatus();
  }
};

class KeyRmVerb : public KeyVerb {
 public:
  std::string_view name() const override { return "key rm"; }
  std::string_view help() const override { return "Take an API key back"; }

  void AddFlags(FlagSet& flags) override {
    KeyVerb::AddFlags(flags);
    flags.Positional("name", &name_, "The key's name");
  }

  absl::Status Run(Io& io) override {
    MSA_RETURN_IF_ERROR(auth::ChangeKeys(file(), [&](std::vector<ApiKey>* keys) -> absl::Status {
      const auto found = Find(keys, name_);
      if (found == keys->end()) {
        return absl::NotFoundError(StrCat("there is no key '", name_, "': see msa key ls"));
      }
      keys->erase(found);
      return absl::OkStatus();
    }));
    if (json()) {
      io.out << Dump({{"name", name_}}) << "\n";
    } else {
      io.out << "took back key '" << name_ << "': servers refuse it within 2 s\n";
    }
    return absl::OkStatus();
  }

 private:
  std::string name_;
};

}  // namespace

std::vector<std::unique_ptr<Verb>> KeyVerbs() {
  std::vector<std::unique_ptr<Verb>> verbs;
  verbs.push_back(std::make_unique<KeyCreateVerb>());
  verbs.push_back(std::make_unique<KeyLsVerb>());
  verbs.push_back(std::make_unique<KeyRmVerb>());
  return verbs;
}

}  // namespace msa::cli

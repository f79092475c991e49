// msa backup create|ls|rm: copies of a server's data folder, made while it serves.
#include <ostream>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "cli/client_verbs.h"
#include "cli/json.h"
#include "cli/progress.h"
#include "common/status_macros.h"

namespace msa::cli {
namespace {

constexpr double kCopyTimeoutS = 600;  // links are made at once, but what is not on disk is written

Json ToJson(const rpc::Backup& backup) {
  Json json = {{"name", backup.name},
               {"path", backup.path},
               {"bytes", backup.bytes},
               {"unshared_bytes", backup.unshared_bytes},
               {"made_unix_micros", backup.made_unix_micros}};
  if (!backup.shard.empty()) json["shard"] = backup.shard;
  return json;
}

// "shard 'a', /data/backups/x"
std::string Where(const rpc::Backup& backup) {
  return backup.shard.empty() ? backup.path : "shard '" + backup.shard + "', " + backup.path;
}

class BackupVerb : public ConnectedVerb {
 public:
  using ConnectedVerb::ConnectedVerb;

 protected:
  bool has_bank() const override { return false; }
  double default_timeout_s() const override { return kCopyTimeoutS; }
  virtual absl::Status RunWith(rpc::BackupService& backups, Io& io) = 0;

 private:
  absl::Status RunOn(Connection& connection, Io& io) final {
    return RunWith(*connection.backups, io);
  }
};

class BackupCreateVerb : public BackupVerb {
 public:
  using BackupVerb::BackupVerb;
  std::string_view name() const override { return "backup create"; }
  std::string_view help() const override {
    return "Copy the server's data folder, on its machine, while it serves";
  }

 protected:
  void AddVerbFlags(FlagSet& flags) override {
    flags.Positional("name", &name_, "The backup's name: letters, digits, '.', '_' and '-'");
  }

  absl::Status RunWith(rpc::BackupService& backups, Io& io) override {
    MSA_ASSIGN_OR_RETURN(const auto made, backups.CreateBackup(NewCall(), name_));
    for (const rpc::Backup& backup : made) {
      if (json()) {
        Json line = ToJson(backup);
        line["documents"] = backup.num_documents;
        io.out << Dump(line) << "\n";
      } else {
        io.out << "made backup " << backup.name << ": " << WithCommas(backup.num_documents)
               << " documents, " << absl::StrFormat("%.1f", backup.bytes / 1e6) << " MB, in "
               << Where(backup) << "\n";
      }
    }
    return absl::OkStatus();
  }

 private:
  std::string name_;
};

class BackupLsVerb : public BackupVerb {
 public:
  using BackupVerb::BackupVerb;
  std::string_view name() const override { return "backup ls"; }
  std::string_view help() const override { return "List the server's backups"; }

 protected:
  void AddVerbFlags(FlagSet&) override {}

  absl::Status RunWith(rpc::BackupService& backups, Io& io) override {
    MSA_ASSIGN_OR_RETURN(const auto listed, backups.ListBackups(NewCall()));
    if (!json()) {
      io.out << absl::StrFormat("%-24s %-19s %9s %11s  %s\n", "NAME", "MADE (UTC)", "MB",
                                "UNSHARED MB", "PATH");
    }
    for (const rpc::Backup& backup : listed) {
      if (json()) {
        io.out << Dump(ToJson(backup)) << "\n";
        continue;
      }
      const std::string made = absl::FormatTime(
          "%Y-%m-%d %H:%M:%S", absl::FromUnixMicros(backup.made_unix_micros), absl::UTCTimeZone());
      io.out << absl::StrFormat("%-24s %-19s %9.1f %11.1f  %s\n", backup.name, made,
                                backup.bytes / 1e6, backup.unshared_bytes / 1e6, Where(backup));
    }
    return absl::OkStatus();
  }
};

class BackupRmVerb : public BackupVerb {
 public:
  using BackupVerb::BackupVerb;
  std::string_view name() const override { return "backup rm"; }
  std::string_view help() const override { return "Delete a backup of the server's"; }

 protected:
  void AddVerbFlags(FlagSet& flags) override {
    flags.Positional("name", &name_, "The backup's name");
  }

  absl::Status RunWith(rpc::BackupService& backups, Io& io) override {
    MSA_RETURN_IF_ERROR(backups.DeleteBackup(NewCall(), name_));
    if (json()) {
      io.out << Dump({{"name", name_}}) << "\n";
    } else {
      io.out << "deleted backup " << name_ << "\n";
    }
    return absl::OkStatus();
  }

 private:
  std::string name_;
};

}  // namespace

std::unique_ptr<Verb> MakeBackupCreateVerb(const Connector& connect) {
  return std::make_unique<BackupCreateVerb>(connect);
}
std::unique_ptr<Verb> MakeBackupLsVerb(const Connector& connect) {
  return std::make_unique<BackupLsVerb>(connect);
}
std::unique_ptr<Verb> MakeBackupRmVerb(const Connector& connect) {
  return std::make_unique<BackupRmVerb>(connect);
}

}  // namespace msa::cli

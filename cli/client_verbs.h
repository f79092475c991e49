// The verbs that talk to a running server, one file each: add.cc, rm.cc, …
#ifndef MSA_CLI_CLIENT_VERBS_H_
#define MSA_CLI_CLIENT_VERBS_H_

#include <memory>

#include "cli/verb.h"

namespace msa::cli {

std::unique_ptr<Verb> MakeAddVerb(const Connector& connect);
std::unique_ptr<Verb> MakeRmVerb(const Connector& connect);
std::unique_ptr<Verb> MakeLsVerb(const Connector& connect);
std::unique_ptr<Verb> MakeGetVerb(const Connector& connect);
std::unique_ptr<Verb> MakeAskVerb(const Connector& connect);
std::unique_ptr<Verb> MakeRetrieveVerb(const Connector& connect);
std::unique_ptr<Verb> MakeModelVerb(const Connector& connect);
std::unique_ptr<Verb> MakeStatsVerb(const Connector& connect);
std::unique_ptr<Verb> MakeEvalVerb(const Connector& connect);
std::unique_ptr<Verb> MakeBankCreateVerb(const Connector& connect);
std::unique_ptr<Verb> MakeBankLsVerb(const Connector& connect);
std::unique_ptr<Verb> MakeBankRmVerb(const Connector& connect);
std::unique_ptr<Verb> MakeBankCalibrateVerb(const Connector& connect);
std::unique_ptr<Verb> MakeBackupCreateVerb(const Connector& connect);
std::unique_ptr<Verb> MakeBackupLsVerb(const Connector& connect);
std::unique_ptr<Verb> MakeBackupRmVerb(const Connector& connect);

}  // namespace msa::cli

#endif  // MSA_CLI_CLIENT_VERBS_H_

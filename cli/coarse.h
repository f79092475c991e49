// What verbs say of coarse scans (docs/decisions/0013), and the flag by which a request chooses.
#ifndef MSA_CLI_COARSE_H_
#define MSA_CLI_COARSE_H_

#include <string>

#include "cli/flags.h"
#include "rpc/memory_shard.h"
#include "rpc/types.h"

namespace msa::cli {

// --scan default|exact|coarse.
void AddScanFlag(FlagSet& flags, std::string* scan);
rpc::Scan ParseScan(const std::string& scan);

// "coarse scans are on, 64 candidates: 1,200 of 1,200 selections of 16 were the full scan's"
std::string Describe(const rpc::CoarseState& state);
// The share of a bank's parts that came since it was calibrated, of all shards together.
double AddedSince(const rpc::CoarseState& state, int64_t num_parts, int64_t next_reference);

}  // namespace msa::cli

#endif  // MSA_CLI_COARSE_H_

// Which shard of how many a data folder holds, kept in it as `place.json`. Documents are looked for
// by their ids' hash: under another map those of a filled folder would be lost to `get` and `rm`,
// and a replacement would stand beside what it replaces, without a word.
#ifndef MSA_CLI_DATA_PLACE_H_
#define MSA_CLI_DATA_PLACE_H_

#include <string>

#include "absl/status/status.h"
#include "rpc/shard_map.h"

namespace msa::cli {

inline constexpr char kPlaceFile[] = "place.json";

// FAILED_PRECONDITION where a filled folder says another place, or one that cannot be read.
// Otherwise writes this one where the folder has none or is empty. Whoever calls holds the folder's
// lock.
absl::Status ClaimPlace(const std::string& folder, const rpc::ShardPlace& place, bool filled);

}  // namespace msa::cli

#endif  // MSA_CLI_DATA_PLACE_H_

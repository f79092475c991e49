// The transport settings that both ends share. Only rpc/*.cc includes this header.
#ifndef MSA_RPC_CHANNEL_ARGS_H_
#define MSA_RPC_CHANNEL_ARGS_H_

#include <string>
#include <utility>
#include <vector>

namespace msa::rpc {

using ChannelArgs = std::vector<std::pair<std::string, int>>;

ChannelArgs ServerChannelArgs();
// `max_backoff_ms`: between attempts to reconnect.
ChannelArgs ClientChannelArgs(int max_backoff_ms);

}  // namespace msa::rpc

#endif  // MSA_RPC_CHANNEL_ARGS_H_

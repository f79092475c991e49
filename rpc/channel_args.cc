#include "rpc/channel_args.h"

#include <grpc/compression.h>
#include <grpc/grpc.h>

namespace msa::rpc {
namespace {

// Blocks are 64 KiB to several MiB: with the defaults (16 KiB frames, 64 KiB windows that grow by
// probing) a stream stalls on window updates. benchmarks/fetch_bench measures these.
ChannelArgs Common() {
  return {
      {GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 4 << 20},
      {GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20},
      {GRPC_ARG_HTTP2_WRITE_BUFFER_SIZE, 4 << 20},
      {GRPC_ARG_TCP_READ_CHUNK_SIZE, 1 << 20},
      {GRPC_ARG_TCP_MIN_READ_CHUNK_SIZE, 64 << 10},
      {GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, 4 << 20},
      {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
      {GRPC_ARG_KEEPALIVE_TIME_MS, 20000},
      // A peer that is starved of processor answers late; deadlines end calls to one that is gone.
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000},
  };
}

}  // namespace

ChannelArgs ServerChannelArgs() {
  ChannelArgs args = Common();
  // Without this a second server binds the same port and takes half the calls, silently.
  args.emplace_back(GRPC_ARG_ALLOW_REUSEPORT, 0);
  args.emplace_back(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  args.emplace_back(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // gRPC unpacks a compressed message whole before it looks at its size: 800 KB may be 800 MB.
  args.emplace_back(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE);
  return args;
}

ChannelArgs ClientChannelArgs(int max_backoff_ms) {
  ChannelArgs args = Common();
  args.emplace_back(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.emplace_back(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  // In spite of its name, how long one attempt to connect may take: a far or a busy peer needs more
  // than the first pause between attempts.
  args.emplace_back(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  args.emplace_back(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, max_backoff_ms);
  // A peer that comes back may have another address (a pod always has): by default its name is
  // looked up no sooner than 30 s after the last time.
  args.emplace_back(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, max_backoff_ms);
  args.emplace_back(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return args;
}

}  // namespace msa::rpc

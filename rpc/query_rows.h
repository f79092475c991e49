// Routing queries on the wire: float32 rows, little-endian, in as many messages as their size asks
// for. Only rpc/*.cc includes this header.
#ifndef MSA_RPC_QUERY_ROWS_H_
#define MSA_RPC_QUERY_ROWS_H_

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/limits.h"
#include "rpc/client_call.h"
#include "rpc/server_call.h"

namespace msa::rpc {

static_assert(std::endian::native == std::endian::little, "queries are sent as they lie in memory");

// Of all messages of one Route call: 16384 rows of 4096 floats.
inline constexpr size_t kMaxQueryBytes = size_t{kMaxQueryTokens} * 4096 * sizeof(float);
inline constexpr size_t kQueryMessageBytes = 4u << 20;

// Sends `request` (a ShardRouteRequest or RouteRequest, complete but for its queries) and
// `queries`; ends the sending side.
template <class Request>
void SendQueries(ClientCall* call, Request request, const std::vector<float>& queries) {
  const char* bytes = reinterpret_cast<const char*>(queries.data());
  size_t left = queries.size() * sizeof(float);
  do {
    const size_t here = std::min(left, kQueryMessageBytes);
    request.set_queries(bytes, here);
    bytes += here;
    left -= here;
    if (!call->Write(ToBuffer(request), /*last=*/left == 0)) return;
    request = Request();
  } while (left > 0);
}

// Reads what SendQueries sent.
template <class Request>
absl::Status ReadQueries(ServerCall& call, Request* first, std::vector<float>* queries) {
  grpc::ByteBuffer buffer;
  if (!call.Read(&buffer)) return absl::InvalidArgumentError("the call has no request");
  if (absl::Status status = FromBuffer(&buffer, first); !status.ok()) return status;
  std::string* bytes = first->mutable_queries();
  while (call.Read(&buffer)) {
    Request next;
    if (absl::Status status = FromBuffer(&buffer, &next); !status.ok()) return status;
    if (bytes->size() + next.queries().size() > kMaxQueryBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the queries are larger than ", kMaxQueryBytes, " bytes"));
    }
    bytes->append(next.queries());
  }
  if (bytes->size() % sizeof(float) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("queries of ", bytes->size(), " bytes are not float32 numbers"));
  }
  queries->resize(bytes->size() / sizeof(float));
  if (!bytes->empty()) std::memcpy(queries->data(), bytes->data(), bytes->size());
  return absl::OkStatus();
}

}  // namespace msa::rpc

#endif  // MSA_RPC_QUERY_ROWS_H_

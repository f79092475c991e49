#include "rpc/types.h"

namespace msa::rpc {

int64_t DocumentInfo::num_tokens() const {
  int64_t sum = 0;
  for (const PartInfo& part : parts) sum += part.num_tokens;
  return sum;
}

int64_t DocumentInfo::num_chunks() const {
  int64_t sum = 0;
  for (const PartInfo& part : parts) sum += part.routing_chunks;
  return sum;
}

}  // namespace msa::rpc

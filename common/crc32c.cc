#include "common/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace msa {

uint32_t Crc32c(std::string_view bytes, uint32_t crc) {
  // crc32_iscsi takes an int length and leaves the customary inversions to its caller.
  constexpr size_t kMaxPiece = size_t{1} << 30;
  uint32_t state = ~crc;
  while (!bytes.empty()) {
    const size_t piece = std::min(bytes.size(), kMaxPiece);
    auto* data = reinterpret_cast<unsigned char*>(const_cast<char*>(bytes.data()));
    state = crc32_iscsi(data, static_cast<int>(piece), state);
    bytes.remove_prefix(piece);
  }
  return ~state;
}

}  // namespace msa

// CRC32C (Castagnoli), the checksum of every stored and transmitted record. Hardware instructions
// where there are any (ISA-L), about 10 GB/s a core.
#ifndef MSA_COMMON_CRC32C_H_
#define MSA_COMMON_CRC32C_H_

#include <cstdint>
#include <string_view>

namespace msa {

// Of `bytes` appended to what `crc` was computed of; 0 to begin. Crc32c("123456789") == 0xE3069283.
uint32_t Crc32c(std::string_view bytes, uint32_t crc = 0);

}  // namespace msa

#endif  // MSA_COMMON_CRC32C_H_

// UTF-8 validation of what clients send.
#ifndef MSA_RPC_UTF8_H_
#define MSA_RPC_UTF8_H_

#include <cstddef>
#include <optional>
#include <string_view>

namespace msa::rpc {

// Offset of the first byte that is not part of a well-formed UTF-8 sequence (Unicode table 3-7: no
// surrogates, no overlong forms, nothing past U+10FFFF); nullopt when `text` is UTF-8.
std::optional<size_t> FirstInvalidUtf8(std::string_view text);

inline bool IsUtf8(std::string_view text) { return !FirstInvalidUtf8(text).has_value(); }

}  // namespace msa::rpc

#endif  // MSA_RPC_UTF8_H_

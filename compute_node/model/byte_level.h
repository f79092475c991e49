// The byte-level alphabet of GPT-2: each byte is written in tokenizer.json as one printable
// character (itself where printable, else U+0100 and up in order of the byte).
#ifndef MSA_COMPUTE_NODE_MODEL_BYTE_LEVEL_H_
#define MSA_COMPUTE_NODE_MODEL_BYTE_LEVEL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace msa::compute_node {

// The character that stands for `byte`.
char32_t ByteLevelChar(uint8_t byte);

// The bytes that `token` stands for; nullopt when it has a character outside the alphabet (then a
// decoder takes the token's own UTF-8, as Hugging Face does).
std::optional<std::string> BytesOfByteLevel(std::string_view token);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_BYTE_LEVEL_H_

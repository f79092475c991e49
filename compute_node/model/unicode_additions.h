// Code points whose category is newer than the Unicode tables of the libraries used here.
// Hugging Face tokenizers 0.23 matches \p{…} by Unicode 16, PCRE2 10.42 by Unicode 14; `Digits`
// goes by Unicode 17, ICU 72 by Unicode 15. Each list is what was measured over all code points;
// with newer libraries the lists only repeat what they know. Made by
// tests/compute_node/model/measure_unicode.py.
#ifndef MSA_COMPUTE_NODE_MODEL_UNICODE_ADDITIONS_H_
#define MSA_COMPUTE_NODE_MODEL_UNICODE_ADDITIONS_H_

#include <string_view>

namespace msa::compute_node {

// Ranges to put into a PCRE2 character class beside \p{category}; empty for a category without any.
std::string_view UnicodeAdditions(std::string_view category);

// True for digits and other numbers (Nd, Nl, No) that ICU 72 does not know.
bool IsAddedNumeric(char32_t c);

// True for word characters (\w of Unicode TS 18) that ICU 72 does not know.
bool IsAddedWordCharacter(char32_t c);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_UNICODE_ADDITIONS_H_

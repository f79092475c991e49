// Cuts a long document into parts of a bounded number of tokens, at the ends of paragraphs,
// sentences, lines or words.
#ifndef MSA_COMPUTE_NODE_MODEL_TEXT_SPLITTER_H_
#define MSA_COMPUTE_NODE_MODEL_TEXT_SPLITTER_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "compute_node/model/byte_range.h"
#include "compute_node/model/tokenizer.h"

namespace msa::compute_node {

// The parts of `text`, in order and without gaps. Each has at most `max_tokens` tokens when it is
// tokenised alone (as a user's text, or with special tokens when `parse_special_tokens`). A part
// ends at the last paragraph end that fits, else at a sentence end, line end, place between words,
// or character. A paragraph ends at a blank line, or at a line end after a full stop or its like. A
// text that fits is one part; the empty text is one empty part. INVALID_ARGUMENT: broken UTF-8,
// max_tokens < 1, or a character that alone has more tokens than that. Cost: the text is tokenised
// about three times, whatever it is made of.
absl::StatusOr<std::vector<ByteRange>> SplitText(const Tokenizer& tokenizer, std::string_view text,
                                                 int max_tokens, bool parse_special_tokens = false);

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_TEXT_SPLITTER_H_

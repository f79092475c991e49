// What a Tokenizer is made of, and how it is read from files. Private to tokenizer.cc.
#ifndef MSA_COMPUTE_NODE_MODEL_TOKENIZER_PARTS_H_
#define MSA_COMPUTE_NODE_MODEL_TOKENIZER_PARTS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "compute_node/model/added_tokens.h"
#include "compute_node/model/bpe.h"
#include "compute_node/model/normalizer.h"
#include "compute_node/model/pretokenizer.h"
#include "compute_node/model/tokenizer.h"
#include "nlohmann/json_fwd.hpp"

namespace msa::compute_node {

struct Tokenizer::Parts {
  static absl::StatusOr<std::unique_ptr<const Parts>> Load(const std::string& tokenizer_json_path);

  Parts(Normalizer normalizer, PreTokenizer pre_tokenizer, BpeModel bpe);
  absl::Status AddTokens(const std::vector<AddedToken>& tokens);
  void FillBytes();
  absl::Status ReadConfig(const nlohmann::json& config, const std::string& where);

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  BpeModel bpe;
  AddedTokenFinder raw_tokens;         // looked for in the text as given
  AddedTokenFinder normalized_tokens;  // looked for after normalisation
  absl::flat_hash_map<std::string, int32_t> added_ids;
  absl::flat_hash_set<int32_t> special_ids;
  std::vector<std::string> bytes_of_id;  // empty for an id that does not exist
  std::string bos_token, eos_token, pad_token;
  std::string chat_template;
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_TOKENIZER_PARTS_H_

// Banks, encoded documents and queries for tests of storage and routing, and what their scores are.
// Keys and queries are small integers (int8 scales powers of two): every product and sum is exact
// in any precision and order, so that scores compare with ==.
#ifndef MSA_TESTS_SUPPORT_ENCODED_DOCUMENTS_H_
#define MSA_TESTS_SUPPORT_ENCODED_DOCUMENTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "rpc/types.h"

namespace msa::testing {

// Router layers 2, 3, 5; 2 KV heads of size 4; 4 tokens a routing chunk, 8 a content chunk; parts
// of at most 64 tokens.
rpc::BankSpec TestBank(DType routing, DType content, std::string name = "bank", uint64_t uid = 77);

struct DocumentSeed {
  std::string id;
  int64_t first_reference = 0;
  std::vector<int32_t> part_tokens = {10};
  uint64_t seed = 1;  // of keys and content
  std::string title = {};
  std::string text = {};  // empty: made from id and seed
};
rpc::EncodedDocument MakeDocument(const rpc::BankSpec& bank, const DocumentSeed& seed);

// [rows, query_width] of integers.
std::vector<float> MakeQueries(const rpc::BankSpec& bank, int rows, uint64_t seed);

// Straight from the definition, in double: max over chunks and rows of the dot product, scaled.
float OracleScore(const rpc::BankSpec& bank, const rpc::EncodedPart& part, int layer_index,
                  const std::vector<float>& queries);

// A part's content record as a shard must deliver it: checked, then its payload.
std::string ContentPayload(const rpc::BankSpec& bank, const rpc::EncodedPart& part,
                           uint64_t revision, int32_t layer, std::string_view record,
                           std::string* error);

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_ENCODED_DOCUMENTS_H_

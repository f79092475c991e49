// Documents for tests that ask about no text in particular.
#ifndef MSA_TESTS_COMPUTE_NODE_ADDED_DOCUMENTS_H_
#define MSA_TESTS_COMPUTE_NODE_ADDED_DOCUMENTS_H_

#include <optional>
#include <string>

#include "gtest/gtest.h"
#include "router/router.h"

namespace msa::compute_node {

// "document 0", "document 1", … to the bank.
inline void AddDocuments(router::Router& router, const std::string& bank, int count) {
  int next = 0;
  const absl::Status status = router.AddDocuments(
      {}, bank,
      [&]() -> std::optional<rpc::NewDocument> {
        if (next == count) return std::nullopt;
        const std::string id = "document " + std::to_string(next++);
        return rpc::NewDocument{id, "", "lost closed coin west " + id, ""};
      },
      [](const rpc::AddResult& result) {
        EXPECT_TRUE(result.status.ok()) << result.status;
        return true;
      });
  ASSERT_TRUE(status.ok()) << status;
}

// The bank "default", float32 throughout, with `count` of them.
inline void MakeBankOf(router::Router& router, int count) {
  rpc::BankOptions bank;
  bank.routing_dtype = bank.content_dtype = DType::kFloat32;
  ASSERT_TRUE(router.CreateBank({}, "default", bank).ok());
  AddDocuments(router, "default", count);
}

// A question of that bank; each layer attends to as many parts as `documents` are wanted.
inline rpc::RetrieveRequest CoinQuestion(int32_t documents, bool allow_partial = false) {
  rpc::RetrieveRequest request;
  request.question = "Where is the coin?";
  request.bank = "default";
  request.limit = documents;
  request.top_k = documents;
  request.allow_partial = allow_partial;
  return request;
}

}  // namespace msa::compute_node

#endif  // MSA_TESTS_COMPUTE_NODE_ADDED_DOCUMENTS_H_

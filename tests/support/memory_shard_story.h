// What the cases of the MemoryShard contract share: a shard with a bank, what was put on it and
// what it must answer. Only for memory_shard_contract*.cc.
#ifndef MSA_TESTS_SUPPORT_MEMORY_SHARD_STORY_H_
#define MSA_TESTS_SUPPORT_MEMORY_SHARD_STORY_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "rpc/memory_shard.h"
#include "tests/support/encoded_documents.h"

namespace msa::testing {

inline const rpc::BankSpec kBank = TestBank(DType::kFloat32, DType::kFloat32);

#define ASSERT_CODE(expr, expected_code)                                   \
  do {                                                                     \
    const absl::Status status_ = (expr);                                   \
    ASSERT_EQ(status_.code(), absl::StatusCode::expected_code) << status_; \
  } while (false)
#define ASSERT_OK(expr) ASSERT_CODE(expr, kOk)

inline std::vector<int64_t> References(const std::vector<rpc::RoutedPart>& parts) {
  std::vector<int64_t> references;
  for (const auto& part : parts) references.push_back(part.scored.reference);
  return references;
}

inline std::vector<int64_t> References(const std::vector<rpc::RankedPart>& parts) {
  std::vector<int64_t> references;
  for (const auto& part : parts) references.push_back(part.scored.reference);
  return references;
}

// A shard with a bank and what was put on it.
class Story {
 public:
  explicit Story(rpc::MemoryShard& shard, rpc::BankSpec bank = kBank)
      : shard_(shard), bank_(std::move(bank)) {
    EXPECT_TRUE(shard_.CreateBank(ctx_, bank_).ok());
  }

  rpc::PutResult Put(const DocumentSeed& seed) {
    const rpc::EncodedDocument document = MakeDocument(bank_, seed);
    auto result = shard_.PutDocument(ctx_, document);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return {};
    for (const auto& part : document.parts) parts_[part.reference] = part;
    return *result;
  }
  void Delete(const std::string& id) {
    auto revision = shard_.DeleteDocument(ctx_, bank_.name, id);
    EXPECT_TRUE(revision.ok()) << revision.status();
  }
  uint64_t Open() {
    auto snapshot = shard_.OpenSnapshot(ctx_, bank_.name, absl::Minutes(1));
    EXPECT_TRUE(snapshot.ok()) << snapshot.status();
    return snapshot.ok() ? snapshot->id : 0;
  }
  rpc::RouteRequest Request(uint64_t snapshot, int32_t layer, int round = 0, int top_k = 100) {
    return {bank_.name, snapshot, round, layer, top_k, MakeQueries(bank_, 3, 42)};
  }
  std::vector<rpc::RoutedPart> Route(uint64_t snapshot, int32_t layer, int round = 0,
                                     int top_k = 100) {
    auto routed = shard_.Route(ctx_, Request(snapshot, layer, round, top_k));
    EXPECT_TRUE(routed.ok()) << routed.status();
    return routed.ok() ? *routed : std::vector<rpc::RoutedPart>();
  }
  // What Route must give when `visible` can be seen.
  std::vector<ScoredPart> Expected(std::vector<int64_t> visible, int layer_index) {
    std::vector<ScoredPart> scored;
    for (int64_t reference : visible) {
      scored.push_back(
          {OracleScore(bank_, parts_[reference], layer_index, MakeQueries(bank_, 3, 42)),
           reference});
    }
    std::sort(scored.begin(), scored.end(), Precedes);
    return scored;
  }
  void ExpectRouted(const std::vector<rpc::RoutedPart>& routed, std::vector<int64_t> visible,
                    int layer_index) {
    const auto expected = Expected(std::move(visible), layer_index);
    ASSERT_EQ(routed.size(), expected.size());
    for (size_t i = 0; i < routed.size(); ++i) {
      EXPECT_EQ(routed[i].scored.reference, expected[i].reference) << "place " << i;
      EXPECT_EQ(routed[i].scored.score, expected[i].score) << "place " << i;
      EXPECT_EQ(routed[i].content_chunks, parts_[expected[i].reference].content_chunks);
    }
  }
  rpc::EncodedPart& part(int64_t reference) { return parts_[reference]; }

 private:
  rpc::MemoryShard& shard_;
  const rpc::BankSpec bank_;
  rpc::CallContext ctx_;
  std::map<int64_t, rpc::EncodedPart> parts_;
};

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_MEMORY_SHARD_STORY_H_

// One suite for every rpc::MemoryShard: the local one over each store, the remote one over gRPC.
// A test program lists memory_shard_contract.cc and memory_shard_contract_{coarse,queries}.cc among
// its sources, links msa_encoded_documents and instantiates:
//
//   INSTANTIATE_TEST_SUITE_P(Remote, MemoryShardContract,
//                            ::testing::Values(NamedShardFactory{"grpc", MakeRemote}),
//                            FactoryName);
#ifndef MSA_TESTS_SUPPORT_MEMORY_SHARD_CONTRACT_H_
#define MSA_TESTS_SUPPORT_MEMORY_SHARD_CONTRACT_H_

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "rpc/memory_shard.h"

namespace msa::testing {

// An empty shard, alone. What an implementation cannot do it says, and the case is skipped.
class ShardUnderTest {
 public:
  virtual ~ShardUnderTest() = default;
  virtual rpc::MemoryShard& shard() = 0;
  // Ends the shard and starts it again on the same data; shard() is another object then.
  virtual bool Restart() { return false; }
  // Moves the clock by which snapshots expire.
  virtual bool AdvanceClock(absl::Duration by) { return false; }
  // Compacts, sweeps and expires now rather than some time.
  virtual bool RunMaintenance() { return false; }
};

struct NamedShardFactory {
  std::string name;
  std::function<std::unique_ptr<ShardUnderTest>()> make;
};

// Names a case in test listings.
inline void PrintTo(const NamedShardFactory& factory, std::ostream* out) { *out << factory.name; }

class MemoryShardContract : public ::testing::TestWithParam<NamedShardFactory> {
 protected:
  void SetUp() override { under_test_ = GetParam().make(); }
  rpc::MemoryShard& shard() { return under_test_->shard(); }

  std::unique_ptr<ShardUnderTest> under_test_;
  rpc::CallContext ctx_;
};

inline std::string FactoryName(const ::testing::TestParamInfo<NamedShardFactory>& info) {
  return info.param.name;
}

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_MEMORY_SHARD_CONTRACT_H_

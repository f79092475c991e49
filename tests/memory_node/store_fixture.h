// A RocksDB store in a folder with documents d0, d1, … in it, and what must be said of them.
#ifndef MSA_TESTS_MEMORY_NODE_STORE_FIXTURE_H_
#define MSA_TESTS_MEMORY_NODE_STORE_FIXTURE_H_

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/strings.h"
#include "gtest/gtest.h"
#include "memory_node/shard.h"
#include "tests/memory_node/temp_folder.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/tiny_backend.h"

namespace msa::testing {

class StoreFixture : public ::testing::Test {
 protected:
  using Shard = std::unique_ptr<memory_node::LocalShard>;

  absl::StatusOr<Shard> Open(const std::string& path, int64_t reserve_bytes = 0) {
    auto store = memory_node::OpenRocksDbStore(
        {.path = path, .write_buffer_bytes = 1 << 20, .reserve_bytes = reserve_bytes});
    if (!store.ok()) return store.status();
    memory_node::ShardOptions options;
    options.background = false;
    return memory_node::LocalShard::Open(*std::move(store), &backend_, options);
  }

  // Document i: two parts, text of 40,000 bytes or so (incompressible is not needed).
  rpc::EncodedDocument Document(int i) {
    std::string text = StrCat("document ", i, " ");
    while (text.size() < 3000) text += StrCat(text.size() * (i + 7), " ");
    return MakeDocument(bank_, {.id = StrCat("d", i),
                                .first_reference = 2 * i,
                                .part_tokens = {64, 40},
                                .seed = static_cast<uint64_t>(i),
                                .text = text});
  }

  absl::Status Put(memory_node::LocalShard& shard, int i) {
    return shard.PutDocument({}, Document(i)).status();
  }

  // Text and every block; DATA_LOSS when some are refused, anything wrong fails the test.
  absl::Status Check(memory_node::LocalShard& shard, uint64_t snapshot, int i) {
    const rpc::EncodedDocument put = Document(i);
    auto got = shard.GetDocument({}, bank_.name, put.document.id);
    if (!got.ok()) return got.status();
    EXPECT_EQ(got->full_text, put.document.text);
    for (const auto& part : put.parts) {
      size_t layer = 0;
      const auto status = shard.FetchBlocks(
          {}, {bank_.name, snapshot, {part.reference}, bank_.router_layers},
          [&](rpc::FetchedBlock block) {
            std::string error;
            EXPECT_EQ(ContentPayload(bank_, part, 1, block.layer, block.record.view(), &error),
                      std::string(part.layers[layer++].content.view()))
                << error;
            return absl::OkStatus();
          });
      if (!status.ok()) return status;
      EXPECT_EQ(layer, bank_.router_layers.size());
    }
    return absl::OkStatus();
  }

  static std::string Contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  static void Overwrite(const std::string& path, const std::string& contents) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
  }
  static void Copy(const std::string& from, const std::string& to) {
    std::filesystem::remove_all(to);
    std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
  }
  static std::vector<std::string> Files(const std::string& folder, const std::string& extension) {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == extension && entry.file_size() > 0) {
        files.push_back(entry.path().string());
      }
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  TinyBackend backend_;
  TempFolder folder_;
  const std::string data_ = folder_.path() + "/data";
  const std::string image_ = folder_.path() + "/image";
  rpc::BankSpec bank_ = TestBank(DType::kInt8, DType::kFloat32);
};

}  // namespace msa::testing

#endif  // MSA_TESTS_MEMORY_NODE_STORE_FIXTURE_H_

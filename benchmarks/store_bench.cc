// Durable adds and deletes of a memory node beside a bare RocksDB doing the same bytes, in one run.
//   store_bench [--dir DIR] [--documents N] [--large N]
// Prints one JSON object. Documents are SmolLM2-135M's: 15 router layers, 3 heads of 64, int8, one
// part of 256 tokens.
#include <rocksdb/db.h>
#include <rocksdb/statistics.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/block_layout.h"
#include "common/check.h"
#include "common/crc32c.h"
#include "common/strings.h"
#include "kernels/backend.h"
#include "memory_node/shard.h"
#include "nlohmann/json.hpp"

namespace msa {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double Milliseconds(Clock::duration elapsed) {
  return std::chrono::duration<double, std::milli>(elapsed).count();
}

rpc::BankSpec MakeBank() {
  rpc::BankSpec bank;
  bank.name = "bench";
  bank.uid = 4711;
  bank.model_fingerprint = "0123456789abcdef0123456789abcdef";
  for (int layer = 15; layer < 30; ++layer) bank.router_layers.push_back(layer);
  bank.routing = {.num_q_heads = 9, .num_kv_heads = 3, .head_dim = 64};
  bank.routing_chunk_tokens = bank.content_chunk_tokens = 16;
  bank.routing_dtype = bank.content_dtype = DType::kInt8;
  bank.part_tokens = 1024;
  return bank;
}

rpc::Payload RandomBlock(size_t bytes, size_t scales_at, std::mt19937_64& random) {
  std::string block(bytes, '\0');
  for (size_t i = 0; i + 8 <= scales_at; i += 8) {
    const uint64_t bits = random();
    std::copy_n(reinterpret_cast<const char*>(&bits), 8, block.data() + i);
  }
  const float scale = 0.01f;
  for (size_t i = scales_at; i + 4 <= bytes; i += 4) {
    std::copy_n(reinterpret_cast<const char*>(&scale), 4, block.data() + i);
  }
  return rpc::Payload(std::move(block));
}

// One part of 256 tokens: 16 chunks, 15 layers.
rpc::EncodedDocument MakeDocument(const rpc::BankSpec& bank, int64_t reference) {
  std::mt19937_64 random(reference);
  rpc::EncodedDocument document{bank.name, bank.uid, bank.model_fingerprint, {}, {}};
  document.document.id = StrCat("document-", reference);
  document.document.text = std::string(1000, 'x');
  rpc::EncodedPart part{reference, {0, 1000}, 256, 16, 16, {}};
  const RoutingBlockLayout routing(bank.routing_dtype, 16, bank.routing.key_width());
  const ContentBlockLayout content(bank.content_dtype, 16, bank.routing.num_kv_heads,
                                   bank.routing.head_dim);
  for (size_t i = 0; i < bank.router_layers.size(); ++i) {
    rpc::EncodedLayer layer;
    layer.routing = RandomBlock(routing.size, routing.scales_offset, random);
    layer.content = RandomBlock(content.size, content.k_scales_offset, random);
    layer.routing_crc32c = Crc32c(layer.routing.view());
    layer.content_crc32c = Crc32c(layer.content.view());
    part.layers.push_back(std::move(layer));
  }
  document.parts.push_back(std::move(part));
  return document;
}

Json Percentiles(std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  const auto at = [&](double share) { return ms[static_cast<size_t>(share * (ms.size() - 1))]; };
  return {{"count", ms.size()}, {"p50_ms", at(0.5)}, {"p99_ms", at(0.99)}, {"max_ms", ms.back()}};
}

// Calls work(i) for 0 … count-1 from `threads` threads; milliseconds of each.
template <typename Work>
std::vector<double> Timed(int count, int threads, const Work& work, double* seconds) {
  std::vector<double> ms(count);
  std::atomic<int> next{0};
  const auto begin = Clock::now();
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&] {
      for (int i = next++; i < count; i = next++) {
        const auto started = Clock::now();
        work(i);
        ms[i] = Milliseconds(Clock::now() - started);
      }
    });
  }
  for (std::thread& thread : pool) thread.join();
  *seconds = Milliseconds(Clock::now() - begin) / 1000;
  return ms;
}

Json Rate(const std::vector<double>& ms, double seconds, size_t bytes_each) {
  Json json = Percentiles(ms);
  json["documents_per_s"] = ms.size() / seconds;
  json["mb_per_s"] = ms.size() * bytes_each / seconds / 1e6;
  return json;
}

size_t BytesOf(const rpc::EncodedDocument& document) {
  size_t bytes = document.document.text.size();
  for (const auto& layer : document.parts[0].layers) {
    bytes += layer.routing.size() + layer.content.size();
  }
  return bytes;
}

std::unique_ptr<rocksdb::DB> OpenBare(const std::string& path, rocksdb::Options options = {}) {
  options.create_if_missing = true;
  rocksdb::DB* db = nullptr;
  MSA_CHECK(rocksdb::DB::Open(options, path, &db).ok());
  return std::unique_ptr<rocksdb::DB>(db);
}

std::string BigEndian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(value >> shift));
  return bytes;
}

// Routing records of `documents` documents under one order of keys: what writing costs, and reading
// all of them once (docs/decisions/0002).
Json KeyOrder(const std::string& path, bool layer_major, int documents) {
  constexpr int kLayers = 15;
  const std::string value(3168, 'k');
  rocksdb::Options options;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = 8 << 20;
  options.target_file_size_base = 8 << 20;
  options.max_bytes_for_level_base = 32 << 20;
  options.statistics = rocksdb::CreateDBStatistics();
  auto db = OpenBare(path, options);
  const auto begin = Clock::now();
  for (int document = 0; document < documents; ++document) {
    rocksdb::WriteBatch batch;
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::string d = BigEndian(document), l = BigEndian(layer);
      batch.Put(layer_major ? l + d : d + l, value);
    }
    MSA_CHECK(db->Write({}, &batch).ok());
  }
  MSA_CHECK(db->Flush({}).ok());
  uint64_t pending = 1;  // let the compactions that the order causes come to an end
  while (pending > 0) {
    MSA_CHECK(db->GetIntProperty("rocksdb.num-running-compactions", &pending));
    uint64_t waiting = 0;
    MSA_CHECK(db->GetIntProperty("rocksdb.compaction-pending", &waiting));
    pending += waiting;
    std::this_thread::yield();
  }
  const double write_ms = Milliseconds(Clock::now() - begin);
  const double stored = static_cast<double>(documents) * kLayers * value.size();
  const double written = options.statistics->getTickerCount(rocksdb::COMPACT_WRITE_BYTES) +
                         options.statistics->getTickerCount(rocksdb::FLUSH_WRITE_BYTES);
  rocksdb::ReadOptions read;
  read.readahead_size = 2 << 20;
  read.fill_cache = false;
  const auto scan = Clock::now();
  int64_t records = 0;
  const std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(read));
  for (it->SeekToFirst(); it->Valid(); it->Next()) ++records;
  MSA_CHECK(records == int64_t{documents} * kLayers);
  return {{"write_ms", write_ms},
          {"bytes_written_per_byte", written / stored},
          {"scan_ms", Milliseconds(Clock::now() - scan)}};
}

class Bench {
 public:
  Bench(std::string folder, const kernels::Backend* backend) : folder_(std::move(folder)) {
    auto store = memory_node::OpenRocksDbStore({.path = folder_ + "/node"});
    MSA_CHECK(store.ok());
    auto shard = memory_node::LocalShard::Open(*std::move(store), backend, {});
    MSA_CHECK(shard.ok());
    shard_ = *std::move(shard);
    MSA_CHECK(shard_->CreateBank({}, bank_).ok());
  }

  Json Add(int count, int threads) {
    std::vector<rpc::EncodedDocument> documents;
    for (int i = 0; i < count; ++i) documents.push_back(MakeDocument(bank_, next_++));
    double seconds = 0;
    const auto ms = Timed(
        count, threads, [&](int i) { MSA_CHECK(shard_->PutDocument({}, documents[i]).ok()); },
        &seconds);
    return Rate(ms, seconds, BytesOf(documents[0]));
  }

  // The same bytes in as many keys, synced, with RocksDB's default options.
  Json BareAdd(int count, int threads) {
    const auto db = OpenBare(folder_ + "/bare");
    std::vector<rpc::EncodedDocument> documents;
    for (int i = 0; i < count; ++i) documents.push_back(MakeDocument(bank_, bare_next_++));
    double seconds = 0;
    const auto put = [&](int i) {
      rocksdb::WriteBatch batch;
      const std::string& id = documents[i].document.id;
      const auto add = [&](const std::string& key, std::string_view value) {
        batch.Put(key, rocksdb::Slice(value.data(), value.size()));
      };
      add(id, documents[i].document.text);
      int n = 0;
      for (const auto& layer : documents[i].parts[0].layers) {
        add(StrCat(id, "/r", n), layer.routing.view());
        add(StrCat(id, "/c", n++), layer.content.view());
      }
      rocksdb::WriteOptions sync;
      sync.sync = true;
      MSA_CHECK(db->Write(sync, &batch).ok());
    };
    const auto ms = Timed(count, threads, put, &seconds);
    return Rate(ms, seconds, BytesOf(documents[0]));
  }

  // Deletes one after the other, each followed by a bare synced write of as many bytes, while
  // `queriers` route without pause.
  Json DeleteUnderLoad(int count, int queriers) {
    const auto bare = OpenBare(folder_ + "/bare");
    std::vector<double> bare_ms;
    rocksdb::WriteOptions sync;
    sync.sync = true;
    std::atomic<bool> done{false};
    std::atomic<int64_t> routed{0};
    std::vector<std::thread> threads;
    for (int q = 0; q < queriers; ++q) {
      threads.emplace_back([&, q] {
        std::mt19937 random(q);
        std::normal_distribution<float> normal;
        std::vector<float> queries(8 * bank_.routing.query_width());
        for (float& value : queries) value = normal(random);
        auto snapshot = shard_->OpenSnapshot({}, bank_.name, absl::Hours(1));
        MSA_CHECK(snapshot.ok());
        for (int round = 0; !done; ++round) {
          const int32_t layer = bank_.router_layers[round % bank_.router_layers.size()];
          MSA_CHECK(shard_->Route({}, {bank_.name, snapshot->id, round, layer, 16, queries}).ok());
          ++routed;
        }
      });
    }
    const int64_t parts = shard_->Stats({}, bank_.name)->num_parts;
    std::vector<double> ms;
    const auto begin = Clock::now();
    for (int i = 0; i < count; ++i) {
      const auto started = Clock::now();
      MSA_CHECK(shard_->DeleteDocument({}, bank_.name, StrCat("document-", deleted_++)).ok());
      const auto deleted = Clock::now();
      MSA_CHECK(bare->Put(sync, StrCat("k", deleted_), std::string(300, 'v')).ok());
      ms.push_back(Milliseconds(deleted - started));
      bare_ms.push_back(Milliseconds(Clock::now() - deleted));
    }
    const double seconds = Milliseconds(Clock::now() - begin) / 1000;
    done = true;
    for (std::thread& thread : threads) thread.join();
    Json json = {{"memory_node", Percentiles(ms)}, {"bare_rocksdb", Percentiles(bare_ms)}};
    json["corpus_parts"] = parts;
    json["corpus_tokens"] = parts * 256;
    json["queriers"] = queriers;
    json["routes_per_s"] = routed / seconds;
    json["questions_per_pass"] =
        static_cast<double>(shard_->scans().questions()) / shard_->scans().passes();
    return json;
  }

  Json Restart(const kernels::Backend* backend) {
    shard_.reset();
    const auto begin = Clock::now();
    auto store = memory_node::OpenRocksDbStore({.path = folder_ + "/node"});
    MSA_CHECK(store.ok());
    auto shard = memory_node::LocalShard::Open(*std::move(store), backend, {});
    MSA_CHECK(shard.ok());
    const double ms = Milliseconds(Clock::now() - begin);
    shard_ = *std::move(shard);
    const auto stats = *shard_->Stats({}, bank_.name);
    return {{"ms", ms},
            {"parts", stats.num_parts},
            {"key_mb_per_s", stats.resident_key_bytes / ms / 1000}};
  }

 private:
  const std::string folder_;
  const rpc::BankSpec bank_ = MakeBank();
  std::unique_ptr<memory_node::LocalShard> shard_;
  int64_t next_ = 0, bare_next_ = 0, deleted_ = 0;
};

int Run(const std::string& folder, int documents, int large) {
  auto backend = kernels::MakeBackend("cpu", 0);
  MSA_CHECK(backend.ok());
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  Json report;
  report["key_order"]["layer_major"] = KeyOrder(folder + "/layer_major", true, documents * 20);
  report["key_order"]["document_major"] =
      KeyOrder(folder + "/document_major", false, documents * 20);
  {
    Bench bench(folder, backend->get());
    for (int threads : {1, 4, 16}) {
      const std::string name = StrCat("add_", threads, "_writers");
      report[name]["memory_node"] = bench.Add(documents, threads);
      report[name]["bare_rocksdb"] = bench.BareAdd(documents, threads);
    }
    report["delete_small"] = bench.DeleteUnderLoad(documents / 2, 2);
    bench.Add(large, 8);
    report["delete_large"] = bench.DeleteUnderLoad(documents / 2, 2);
    report["delete_idle"] = bench.DeleteUnderLoad(documents / 2, 0);
    report["restart"] = bench.Restart(backend->get());
  }
  std::filesystem::remove_all(folder);
  std::puts(report.dump(2).c_str());
  return 0;
}

}  // namespace
}  // namespace msa

int main(int argc, char** argv) {
  std::string folder = "/tmp/msa_store_bench";
  int documents = 400, large = 8000;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--dir") folder = std::string(argv[i + 1]) + "/msa_store_bench";
    if (flag == "--documents") documents = std::atoi(argv[i + 1]);
    if (flag == "--large") large = std::atoi(argv[i + 1]);
  }
  return msa::Run(folder, documents, large);
}

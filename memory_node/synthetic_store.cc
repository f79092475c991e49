#include "memory_node/synthetic_store.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/block_layout.h"
#include "common/crc32c.h"
#include "common/strings.h"
#include "memory_node/record_format.h"

namespace msa::memory_node {
namespace {

constexpr size_t kPoolBytes = 8 << 20;
constexpr uint64_t kRevision = 1;

// Records of the made-up documents.
class Maker {
 public:
  explicit Maker(const SyntheticDocuments& documents) : d_(documents) {
    // Random numbers of order head_dim^-1/2, as normalised keys have; blocks are cut out of them.
    std::mt19937 random(7);
    std::normal_distribution<float> normal(
        0, 1 / std::sqrt(static_cast<float>(d_.bank.routing.head_dim)));
    for (size_t i = 0; i < kPoolBytes / sizeof(float); ++i) floats_.push_back(normal(random));
    for (float value : floats_) {
      half_.push_back(ToBFloat16(value));
      steps_.push_back(static_cast<int8_t>(std::clamp(value * 127, -127.0f, 127.0f)));
      float8_.push_back(ToFloat8(value * 127));
    }
  }

  const SyntheticDocuments& documents() const { return d_; }
  int64_t num_layers() const { return static_cast<int64_t>(d_.bank.router_layers.size()); }

  std::string Id(int64_t document) const { return absl::StrFormat("synthetic-%09d", document); }

  Description Describe(int64_t document) const {
    Description description;
    description.info.id = Id(document);
    description.info.title = StrCat("Document ", document);
    description.info.revision = kRevision;
    rpc::PartInfo part;
    part.reference = document;
    part.num_tokens = d_.tokens;
    part.routing_chunks = Chunks(d_.bank.routing_chunk_tokens);
    part.span = {0, Text(document).size()};
    description.info.parts = {part};
    description.info.text_bytes = part.span.end;
    description.max_reference = document;
    return description;
  }

  std::string MetaRecord(int64_t document) const {
    return EncodeRecord(PlainIdentity(d_.bank, RecordKind::kDocument, document, kRevision),
                        EncodeDocumentPayload({Describe(document), 0}));
  }
  std::string TextRecord(int64_t document) const {
    const std::string text = Text(document);
    return EncodeRecord(PlainIdentity(d_.bank, RecordKind::kText, document, kRevision),
                        EncodeTextPayload({Describe(document), text}));
  }
  std::string RoutingRecord(int64_t document, int64_t layer_index) const {
    const int32_t chunks = Chunks(d_.bank.routing_chunk_tokens);
    const RoutingBlockLayout layout(d_.bank.routing_dtype, chunks, d_.bank.routing.key_width());
    const int32_t layer = d_.bank.router_layers[layer_index];
    std::string payload(layout.size, '\0');
    Fill(document, layer, d_.bank.routing_dtype, layout.scales_offset, &payload);
    FillScales(layout.scales_offset, layout.size, &payload);
    return EncodeRecord(RoutingIdentity(d_.bank, document, kRevision, layer, chunks), payload);
  }
  std::string ContentRecord(int64_t document, int64_t layer_index) const {
    const int32_t chunks = Chunks(d_.bank.content_chunk_tokens);
    const ContentBlockLayout layout(d_.bank.content_dtype, chunks, d_.bank.routing.num_kv_heads,
                                    d_.bank.routing.head_dim);
    const int32_t layer = d_.bank.router_layers[layer_index];
    std::string payload(layout.size, '\0');
    Fill(~document, layer, d_.bank.content_dtype, layout.k_scales_offset, &payload);
    FillScales(layout.k_scales_offset, layout.size, &payload);
    return EncodeRecord(ContentIdentity(d_.bank, document, kRevision, layer, chunks), payload);
  }

 private:
  int32_t Chunks(int32_t chunk_tokens) const {
    return (d_.tokens + chunk_tokens - 1) / chunk_tokens;
  }
  std::string Text(int64_t document) const {
    return StrCat("Document ", document, " of a made-up bank.");
  }

  // The first `bytes` of the payload in rows of a chunk. Each row is two pieces of the pool, from
  // places that its name decides: no two of a bank are alike, so that scores are not either.
  void Fill(int64_t document, int32_t layer, DType dtype, size_t bytes,
            std::string* payload) const {
    const auto [pool, pool_bytes] = Pool(dtype);
    const size_t row_bytes = d_.bank.routing.key_width() * DTypeBytes(dtype);
    // Mixed: rows count on from here, and must not come to where the next layer's begin.
    uint64_t state = Mix((static_cast<uint64_t>(document) * 64 + layer) * 0x9E3779B97F4A7C15u);
    for (size_t done = 0; done < bytes; done += row_bytes) {
      state += 0x9E3779B97F4A7C15u;
      const uint64_t mixed = Mix(state);
      const size_t row = std::min(row_bytes, bytes - done);
      const size_t head = std::min(row, AlignTo4(mixed % row_bytes));
      Cut(pool, pool_bytes, mixed >> 10, payload->data() + done, head);
      Cut(pool, pool_bytes, mixed >> 37, payload->data() + done + head, row - head);
    }
  }
  std::pair<const char*, size_t> Pool(DType dtype) const {
    switch (dtype) {
      case DType::kBFloat16:
        return {reinterpret_cast<const char*>(half_.data()), half_.size() * sizeof(BFloat16)};
      case DType::kInt8:
        return {reinterpret_cast<const char*>(steps_.data()), steps_.size()};
      case DType::kFloat8:
        return {reinterpret_cast<const char*>(float8_.data()), float8_.size()};
      default:
        return {reinterpret_cast<const char*>(floats_.data()), kPoolBytes};
    }
  }
  static uint64_t Mix(uint64_t x) {  // splitmix64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }
  static void Cut(const char* pool, size_t pool_bytes, uint64_t where, char* to, size_t bytes) {
    const size_t at = where % ((pool_bytes - bytes) / sizeof(float)) * sizeof(float);
    std::memcpy(to, pool + at, bytes);
  }
  static void FillScales(size_t begin, size_t end, std::string* payload) {
    const float scale = 1.0f / 127;
    for (size_t at = begin; at + sizeof(scale) <= end; at += sizeof(scale)) {
      std::memcpy(payload->data() + at, &scale, sizeof(scale));
    }
  }

  const SyntheticDocuments d_;
  std::vector<float> floats_;
  std::vector<BFloat16> half_;
  std::vector<int8_t> steps_;
  std::vector<Float8> float8_;  // steps too, of the same scale
};

// Records of one table by number, in key order.
struct Series {
  int64_t count;
  std::function<std::string(int64_t)> key;
  std::function<std::string(int64_t)> value;
};

Series SeriesOf(const Maker& maker, Table table) {
  const SyntheticDocuments& d = maker.documents();
  const uint64_t uid = d.bank.uid;
  const int64_t layers = maker.num_layers();
  const auto block_key = [&d, layers](int64_t i) {
    return BlockKey(d.bank.uid, i / layers, d.bank.router_layers[i % layers]);
  };
  switch (table) {
    case Table::kMeta:
      return {d.count, [&maker, uid](int64_t i) { return MetaKey(uid, maker.Id(i)); },
              [&maker](int64_t i) { return maker.MetaRecord(i); }};
    case Table::kText:
      return {d.count, [uid](int64_t i) { return TextKey(uid, i); },
              [&maker](int64_t i) { return maker.TextRecord(i); }};
    case Table::kRouting:
      return {d.count * layers, block_key,
              [&maker, layers](int64_t i) { return maker.RoutingRecord(i / layers, i % layers); }};
    case Table::kContent:
      return {d.count * layers, block_key,
              [&maker, layers](int64_t i) { return maker.ContentRecord(i / layers, i % layers); }};
    case Table::kSystem:
      break;
  }
  return {0, nullptr, nullptr};
}

// Number of the first record with a key >= `key`.
int64_t LowerBound(const Series& series, std::string_view key) {
  int64_t begin = 0, end = series.count;
  while (begin < end) {
    const int64_t middle = begin + (end - begin) / 2;
    if (series.key(middle) < key) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

class SeriesCursor : public Cursor {
 public:
  explicit SeriesCursor(Series series) : series_(std::move(series)) { MoveTo(0); }
  void Seek(std::string_view key) override { MoveTo(LowerBound(series_, key)); }
  void Next() override { MoveTo(at_ + 1); }
  bool Valid() const override { return at_ < series_.count; }
  absl::Status status() const override { return absl::OkStatus(); }
  std::string_view key() const override { return key_; }
  std::string_view value() const override {
    if (value_.empty()) value_ = series_.value(at_);
    return value_;
  }

 private:
  void MoveTo(int64_t at) {
    at_ = at;
    key_ = Valid() ? series_.key(at_) : "";
    value_.clear();
  }

  const Series series_;
  int64_t at_ = 0;
  std::string key_;
  mutable std::string value_;  // made when asked for
};

class SyntheticStore : public DocumentStore {
 public:
  explicit SyntheticStore(const SyntheticDocuments& documents)
      : maker_(documents), rest_(MakeMemoryStore()) {
    WriteSet writes;
    writes.Put(Table::kSystem, BankKey(documents.bank.uid),
               EncodeRecord(PlainIdentity(documents.bank, RecordKind::kBank, 0, 0),
                            EncodeBankPayload(documents.bank)));
    rest_->Commit(writes, Priority::kNormal).IgnoreError();
  }

  absl::Status Commit(const WriteSet& writes, Priority priority) override {
    return rest_->Commit(writes, priority);
  }

  absl::StatusOr<rpc::Payload> Get(Table table, std::string_view key) override {
    const Series series = SeriesOf(maker_, table);
    const int64_t at = LowerBound(series, key);
    if (at < series.count && series.key(at) == key) return rpc::Payload(series.value(at));
    return rest_->Get(table, key);
  }

  std::unique_ptr<Cursor> NewCursor(Table table, bool sequential) override {
    if (table == Table::kSystem) return rest_->NewCursor(table, sequential);
    return std::make_unique<SeriesCursor>(SeriesOf(maker_, table));
  }

  absl::Status Reclaim(Table table, std::string_view begin, std::string_view end,
                       std::atomic<bool>* cancelled) override {
    return rest_->Reclaim(table, begin, end, cancelled);
  }
  int64_t DiskBytes() override { return rest_->DiskBytes(); }

 private:
  const Maker maker_;
  const std::unique_ptr<DocumentStore> rest_;
};

}  // namespace

std::unique_ptr<DocumentStore> MakeSyntheticStore(const SyntheticDocuments& documents) {
  return std::make_unique<SyntheticStore>(documents);
}

}  // namespace msa::memory_node

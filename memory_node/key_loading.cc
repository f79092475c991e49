#include "memory_node/key_loading.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "memory_node/index_loader.h"
#include "memory_node/record_format.h"

namespace msa::memory_node {
namespace {

// More only wait for each other at the bus.
constexpr int kMaxThreads = 32;
constexpr absl::Duration kProgressEvery = absl::Seconds(2);

int64_t Chunks(const FoundDocument& document) {
  int64_t chunks = 0;
  for (int32_t of_part : document.chunks) chunks += of_part;
  return chunks;
}

// Consecutive documents that fill a segment of their own.
struct Unit {
  size_t begin = 0;
  size_t end = 0;
  int64_t parts = 0;
  int64_t chunks = 0;
};

std::vector<Unit> Cut(const std::vector<FoundDocument>& documents, int64_t max_chunks) {
  std::vector<Unit> units;
  for (size_t i = 0; i < documents.size(); ++i) {
    const int64_t chunks = Chunks(documents[i]);
    if (units.empty() || units.back().chunks + chunks > max_chunks) units.push_back({i, i, 0, 0});
    Unit& unit = units.back();
    unit.end = i + 1;
    unit.parts += static_cast<int64_t>(documents[i].chunks.size());
    unit.chunks += chunks;
  }
  return units;
}

class Loading {
 public:
  Loading(DocumentStore& store, const std::shared_ptr<Bank>& bank,
          const std::vector<FoundDocument>& documents,
          const std::function<void(const std::shared_ptr<DocumentEntry>&, const absl::Status&)>&
              damaged)
      : store_(store),
        bank_(*bank),
        spec_(bank->spec()),
        documents_(documents),
        damaged_(damaged),
        units_(Cut(documents, bank->index().MaxSegmentChunks())) {}

  absl::Status Run() {
    const size_t cores = std::max(1u, std::thread::hardware_concurrency());
    const size_t count = std::min({cores, units_.size(), size_t{kMaxThreads}});
    std::vector<std::thread> threads;
    for (size_t i = 1; i < count; ++i) threads.emplace_back([this] { Work(); });
    Work();
    for (std::thread& thread : threads) thread.join();
    absl::MutexLock lock(&mutex_);
    if (status_.ok() && told_) Tell("loaded routing keys");
    return status_;
  }

 private:
  void Work() {
    auto cursor = store_.NewCursor(Table::kRouting, /*sequential=*/true);
    for (size_t i = next_unit_++; i < units_.size() && !stopped_; i = next_unit_++) {
      if (absl::Status status = LoadUnit(units_[i], *cursor); !status.ok()) {
        absl::MutexLock lock(&mutex_);
        status_.Update(status);
        stopped_ = true;
      }
    }
  }

  absl::Status LoadUnit(const Unit& unit, Cursor& cursor) {
    IndexLoader loader(bank_.index(), unit.parts, unit.chunks);
    for (size_t i = unit.begin; i < unit.end && !stopped_; ++i) {
      const FoundDocument& document = documents_[i];
      absl::Status status = LoadDocument(document, cursor, loader);
      if (absl::IsDataLoss(status) || absl::IsInvalidArgument(status)) {
        damaged_(document.entry, status);
      } else if (!status.ok()) {
        return status;
      }
      CountDocument(document);
    }
    return loader.Flush();
  }

  absl::Status LoadDocument(const FoundDocument& found, Cursor& cursor, IndexLoader& loader) {
    std::vector<std::string> held;  // the cursor keeps only the record it stands on
    held.reserve(found.chunks.size() * spec_.router_layers.size());
    std::vector<IndexPart> parts;
    for (size_t i = 0; i < found.chunks.size(); ++i) {
      IndexPart part{found.entry->references[i], found.chunks[i], found.content_chunks[i], {}};
      for (int32_t layer : spec_.router_layers) {
        const auto identity =
            RoutingIdentity(spec_, part.reference, found.entry->revision, layer, part.chunks);
        MSA_ASSIGN_OR_RETURN(const std::string_view keys, ReadKeys(identity, cursor));
        held.emplace_back(keys);
        part.layers.push_back(held.back());
      }
      parts.push_back(std::move(part));
    }
    MSA_RETURN_IF_ERROR(bank_.Reserve(found.entry));
    if (absl::Status status = loader.Add(parts); !status.ok()) {
      bank_.Unreserve(*found.entry);
      return status;
    }
    bank_.Install(found.entry, 0);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string_view> ReadKeys(const BlockIdentity& identity, Cursor& cursor) {
    const std::string key = BlockKey(spec_.uid, identity.reference, identity.layer);
    if (cursor.Valid() && cursor.key() < key) cursor.Next();  // the next one, nearly always
    if (!cursor.Valid() || cursor.key() != key) cursor.Seek(key);
    const std::string what =
        StrCat("routing keys of layer ", identity.layer, " of reference ", identity.reference);
    if (!cursor.status().ok()) {
      return absl::Status(cursor.status().code(), StrCat(what, ": ", cursor.status().message()));
    }
    if (!cursor.Valid() || cursor.key() != key)
      return absl::DataLossError(StrCat(what, " missing"));
    auto payload = VerifyRecord(cursor.value(), identity);
    if (payload.ok()) return payload;
    return absl::DataLossError(StrCat(what, ": ", payload.status().message()));
  }

  void CountDocument(const FoundDocument& document) {
    ++done_;
    chunks_done_ += Chunks(document);
    if (absl::ToUnixNanos(absl::Now()) < tell_next_.load(std::memory_order_relaxed)) return;
    absl::MutexLock lock(&mutex_);
    if (absl::ToUnixNanos(absl::Now()) < tell_next_) return;
    tell_next_ = absl::ToUnixNanos(absl::Now() + kProgressEvery);
    told_ = true;
    Tell("loading routing keys");
  }

  void Tell(std::string_view what) const {
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
    const double mb = static_cast<double>(chunks_done_ * bank_.index().shape().ChunkBytes()) / 1e6;
    Log(LogLevel::kInfo, std::string(what),
        {{"bank", spec_.name},
         {"documents", done_.load()},
         {"of", documents_.size()},
         {"seconds", seconds},
         {"mb_per_s", mb / seconds}});
  }

  DocumentStore& store_;
  Bank& bank_;
  const rpc::BankSpec& spec_;
  const std::vector<FoundDocument>& documents_;
  const std::function<void(const std::shared_ptr<DocumentEntry>&, const absl::Status&)>& damaged_;
  const std::vector<Unit> units_;
  const absl::Time start_ = absl::Now();
  std::atomic<size_t> next_unit_{0};
  std::atomic<bool> stopped_{false};
  std::atomic<int64_t> done_{0};
  std::atomic<int64_t> chunks_done_{0};
  std::atomic<int64_t> tell_next_{absl::ToUnixNanos(absl::Now() + kProgressEvery)};
  absl::Mutex mutex_;
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status LoadKeys(DocumentStore& store, const std::shared_ptr<Bank>& bank,
                      const std::vector<FoundDocument>& documents,
                      const std::function<void(const std::shared_ptr<DocumentEntry>&,
                                               const absl::Status&)>& damaged) {
  return Loading(store, bank, documents, damaged).Run();
}

}  // namespace msa::memory_node

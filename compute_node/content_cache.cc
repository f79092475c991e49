#include "compute_node/content_cache.h"

#include <iterator>
#include <string>
#include <utility>

#include "common/block_layout.h"
#include "common/block_record.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::compute_node {
namespace {

// What float32 rows in the payload need; a gRPC slice may start anywhere.
constexpr uintptr_t kAlignment = 4;

BlockIdentity ExpectedIdentity(const rpc::BankSpec& bank, int64_t reference, int32_t layer,
                               const BlockIdentity& found) {
  BlockIdentity expected;
  expected.kind = RecordKind::kContent;
  expected.dtype = bank.content_dtype;
  expected.layer = layer;
  expected.num_kv_heads = bank.routing.num_kv_heads;
  expected.bank_uid = bank.uid;
  expected.reference = reference;
  expected.fingerprint = bank.model_fingerprint;
  expected.width = static_cast<uint32_t>(bank.routing.key_width());
  // A reference belongs to one revision for ever, and its length is the record's own to say.
  expected.revision = found.revision;
  expected.rows = found.rows;
  return expected;
}

rpc::Payload Aligned(rpc::Payload record) {
  if (reinterpret_cast<uintptr_t>(record.view().data()) % kAlignment == 0) return record;
  return rpc::Payload(std::string(record.view()));
}

// K and V rows, and their scales, of a payload that starts at `base`.
kernels::KvView ViewOf(const char* base, const rpc::BankSpec& bank, int64_t chunks) {
  const ContentBlockLayout layout(bank.content_dtype, chunks, bank.routing.num_kv_heads,
                                  bank.routing.head_dim);
  kernels::KvView view;
  view.k = base;
  view.v = base + layout.v_offset;
  view.k_scales = reinterpret_cast<const float*>(base + layout.k_scales_offset);
  view.v_scales = reinterpret_cast<const float*>(base + layout.v_scales_offset);
  view.dtype = bank.content_dtype;
  view.num_tokens = chunks;
  return view;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ContentBlock>> ParseContentBlock(const rpc::BankSpec& bank,
                                                                      int64_t reference,
                                                                      int32_t layer,
                                                                      rpc::Payload record) {
  auto block = std::make_shared<ContentBlock>();
  block->record = Aligned(std::move(record));
  MSA_ASSIGN_OR_RETURN(const BlockRecord parsed, DecodeRecord(block->record.view()));
  MSA_RETURN_IF_ERROR(
      CheckIdentity(parsed.identity, ExpectedIdentity(bank, reference, layer, parsed.identity)));
  const int64_t chunks = parsed.identity.rows;
  const ContentBlockLayout layout(bank.content_dtype, chunks, bank.routing.num_kv_heads,
                                  bank.routing.head_dim);
  if (parsed.payload.size() != layout.size) {
    return absl::DataLossError(StrCat("content block of reference ", reference, ", layer ", layer,
                                      " has ", parsed.payload.size(), " bytes instead of ",
                                      layout.size));
  }
  block->view = ViewOf(parsed.payload.data(), bank, chunks);
  return std::shared_ptr<const ContentBlock>(std::move(block));
}

absl::StatusOr<std::shared_ptr<const ContentBlock>> MakeResident(
    const kernels::Backend& backend, const rpc::BankSpec& bank,
    std::shared_ptr<const ContentBlock> block, kernels::Backend::Purpose purpose) {
  if (backend.memory_is_host()) return block;
  const int64_t chunks = block->view.num_tokens;
  const ContentBlockLayout layout(bank.content_dtype, chunks, bank.routing.num_kv_heads,
                                  bank.routing.head_dim);
  auto resident = std::make_shared<ContentBlock>();
  MSA_ASSIGN_OR_RETURN(resident->resident, backend.Allocate(layout.size, purpose));
  backend.Copy(resident->resident.data(), block->view.k, layout.size);
  resident->on_device = purpose != kernels::Backend::Purpose::kResident;
  resident->view = ViewOf(resident->resident.as<char>(), bank, chunks);
  return std::shared_ptr<const ContentBlock>(std::move(resident));
}

std::shared_ptr<const ContentBlock> ContentCache::Find(const Key& key) {
  absl::MutexLock lock(&mu_);
  const auto it = entries_.find(key);
  if (it == entries_.end()) {
    ++misses_;
    return nullptr;
  }
  ++hits_;
  recent_.splice(recent_.begin(), recent_, it->second);
  return it->second->block;
}

ContentCache::Usage ContentCache::usage() const {
  absl::MutexLock lock(&mu_);
  return {bytes_, hits_, misses_};
}

void ContentCache::Insert(const Key& key, std::shared_ptr<const ContentBlock> block) {
  const size_t size = block->bytes();
  if (size > capacity_bytes_) return;
  Dropped dropped;
  absl::MutexLock lock(&mu_);
  if (entries_.contains(key)) return;
  recent_.push_front({key, std::move(block)});
  entries_[key] = recent_.begin();
  bytes_ += size;
  while (bytes_ > capacity_bytes_) Drop(std::prev(recent_.end()), dropped);
}

size_t ContentCache::DropHalf() {
  Dropped dropped;
  absl::MutexLock lock(&mu_);
  const auto idle = [](const Entry& entry) {
    return entry.block->on_device && entry.block.use_count() == 1;
  };
  size_t left = 0, freed = 0;
  for (const Entry& entry : recent_) left += idle(entry) ? entry.block->bytes() : 0;
  for (auto it = recent_.end(); it != recent_.begin() && freed < left;) {
    --it;
    if (!idle(*it)) continue;
    freed += it->block->bytes();
    left -= it->block->bytes();
    it = Drop(it, dropped);
  }
  return freed;
}

ContentCache::Entries::iterator ContentCache::Drop(Entries::iterator entry, Dropped& dropped) {
  bytes_ -= entry->block->bytes();
  entries_.erase(entry->key);
  dropped.push_back(std::move(entry->block));
  return recent_.erase(entry);
}

}  // namespace msa::compute_node

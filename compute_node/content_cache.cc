#include "compute_node/content_cache.h"

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
  const char* base = parsed.payload.data();
  kernels::KvView& view = block->view;
  view.k = base;
  view.v = base + layout.v_offset;
  view.k_scales = reinterpret_cast<const float*>(base + layout.k_scales_offset);
  view.v_scales = reinterpret_cast<const float*>(base + layout.v_scales_offset);
  view.dtype = bank.content_dtype;
  view.num_tokens = chunks;
  return std::shared_ptr<const ContentBlock>(std::move(block));
}

std::shared_ptr<const ContentBlock> ContentCache::Find(uint64_t bank_uid, int64_t reference,
                                                       int32_t layer) {
  absl::MutexLock lock(&mu_);
  const auto it = entries_.find(Key(bank_uid, reference, layer));
  if (it == entries_.end()) return nullptr;
  recent_.splice(recent_.begin(), recent_, it->second);
  return it->second->block;
}

void ContentCache::Insert(uint64_t bank_uid, int64_t reference, int32_t layer,
                          std::shared_ptr<const ContentBlock> block) {
  const size_t size = block->record.size();
  if (size > capacity_bytes_) return;
  absl::MutexLock lock(&mu_);
  const Key key(bank_uid, reference, layer);
  if (entries_.contains(key)) return;
  recent_.push_front({key, std::move(block)});
  entries_[key] = recent_.begin();
  bytes_ += size;
  while (bytes_ > capacity_bytes_) {
    bytes_ -= recent_.back().block->record.size();
    entries_.erase(recent_.back().key);
    recent_.pop_back();
  }
}

}  // namespace msa::compute_node

#include "memory_node/shard.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "common/limits.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/strings.h"
#include "memory_node/put_batch.h"
#include "memory_node/recovery.h"
#include "memory_node/request_checks.h"
#include "memory_node/validation.h"
#include "rpc/caller.h"

namespace msa::memory_node {
namespace {

using Priority = DocumentStore::Priority;

absl::Status UnknownDocument(const Bank& bank, const std::string& id) {
  return absl::NotFoundError(StrCat("bank '", bank.spec().name, "' has no document '", id, "'"));
}

// Who writes holds the bank's write_mutex, shared.
absl::Status CheckNotDeleted(const Bank& bank) {
  if (!bank.deleted()) return absl::OkStatus();
  return absl::NotFoundError(StrCat("bank '", bank.spec().name, "' was deleted meanwhile"));
}

}  // namespace

LocalShard::LocalShard(std::unique_ptr<DocumentStore> store, const kernels::Backend* backend,
                       ShardOptions options)
    : store_(std::move(store)),
      backend_(backend),
      options_(std::move(options)),
      scans_(backend, options_.scan),
      snapshots_(options_.now, options_.max_open_snapshots) {}

absl::StatusOr<std::unique_ptr<LocalShard>> LocalShard::Open(std::unique_ptr<DocumentStore> store,
                                                             const kernels::Backend* backend,
                                                             ShardOptions options) {
  std::unique_ptr<LocalShard> shard(new LocalShard(std::move(store), backend, std::move(options)));
  MSA_ASSIGN_OR_RETURN(RecoveredStore recovered,
                       Recover(*shard->store_, *backend, shard->options_.index));
  shard->damaged_banks_ = recovered.damaged_banks;
  {
    absl::MutexLock lock(&shard->banks_mutex_);
    for (auto& bank : recovered.banks) shard->banks_[bank->spec().name] = bank;
  }
  if (shard->options_.background) {
    shard->maintenance_ = std::thread([self = shard.get()] { self->MaintenanceLoop(); });
  }
  return shard;
}

LocalShard::~LocalShard() {
  {
    absl::MutexLock lock(&stop_mutex_);
    stop_ = true;
  }
  if (maintenance_.joinable()) maintenance_.join();
}

// ---- Banks

absl::StatusOr<std::shared_ptr<Bank>> LocalShard::FindBank(const rpc::CallContext& ctx,
                                                           const std::string& name) const {
  MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
  absl::MutexLock lock(&banks_mutex_);
  const auto it = banks_.find(name);
  if (it != banks_.end()) return it->second;
  return absl::NotFoundError(
      StrCat("there is no bank '", name.substr(0, kMaxBankNameBytes),
             "': 'default' is made by its first document, others by msa bank create; msa bank ls "
             "shows which there are"));
}

std::vector<std::shared_ptr<Bank>> LocalShard::Banks() const {
  absl::MutexLock lock(&banks_mutex_);
  std::vector<std::shared_ptr<Bank>> banks;
  for (const auto& [name, bank] : banks_) banks.push_back(bank);
  return banks;
}

absl::Status LocalShard::CreateBank(const rpc::CallContext& ctx, const rpc::BankSpec& spec) {
  MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
  MSA_RETURN_IF_ERROR(ValidateBank(spec));
  absl::MutexLock registry(&registry_mutex_);
  const auto banks = Banks();
  for (const auto& bank : banks) {
    if (bank->spec() == spec) return absl::OkStatus();
    if (bank->spec().name == spec.name) {
      return absl::AlreadyExistsError(
          StrCat("a bank '", spec.name,
                 "' of another specification exists; delete it first or "
                 "choose another name"));
    }
    if (bank->spec().uid == spec.uid) {
      return absl::InvalidArgumentError("the uid is another bank's; take a random one");
    }
  }
  if (static_cast<int>(banks.size()) >= options_.max_banks) {
    return absl::ResourceExhaustedError(
        StrCat("this node has ", options_.max_banks, " banks, the most it may; delete some"));
  }
  for (const std::string& mark : {DeletedBankKey(spec.uid), SweptBankKey(spec.uid)}) {
    const absl::Status found = store_->Get(Table::kSystem, mark).status();
    if (found.ok()) {
      return absl::FailedPreconditionError(
          StrCat("bank '", spec.name,
                 "' was deleted here, and not on every shard: delete it again (msa bank rm)"));
    }
    if (!absl::IsNotFound(found)) return found;
  }
  if (store_->Get(Table::kSystem, BankKey(spec.uid)).ok()) {
    return absl::InvalidArgumentError("the uid was used before; take a random one");
  }
  WriteSet writes;
  const std::string record =
      EncodeRecord(PlainIdentity(spec, RecordKind::kBank, 0, 0), EncodeBankPayload(spec));
  writes.Put(Table::kSystem, BankKey(spec.uid), record);
  writes.Put(Table::kMeta, MetaKey(spec.uid, ""), record);
  if (spec.weights_dtype) {
    writes.Put(Table::kSystem, WeightsKey(spec.uid),
               EncodeRecord(PlainIdentity(spec, RecordKind::kWeights, 0, 0),
                            EncodeWeightsPayload(*spec.weights_dtype)));
  }
  MSA_RETURN_IF_ERROR(store_->Commit(writes, Priority::kNormal));
  absl::MutexLock lock(&banks_mutex_);
  banks_[spec.name] = std::make_shared<Bank>(spec, *backend_, options_.index);
  return absl::OkStatus();
}

absl::Status LocalShard::DeleteBank(const rpc::CallContext& ctx, const std::string& name) {
  absl::MutexLock registry(&registry_mutex_);
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, name));
  absl::WriterMutexLock no_writers(&bank->write_mutex());
  return DeleteLocked(*bank);
}

absl::Status LocalShard::DeleteUnusedBank(const rpc::CallContext& ctx, const std::string& name,
                                          uint64_t bank_uid) {
  absl::MutexLock registry(&registry_mutex_);
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, name));
  if (bank->spec().uid != bank_uid) {
    return absl::NotFoundError(StrCat("the bank '", name, "' here is another of that name"));
  }
  absl::WriterMutexLock no_writers(&bank->write_mutex());
  absl::MutexLock no_takers(&bank->taking_mutex());
  MSA_ASSIGN_OR_RETURN(const int64_t taken, bank->references_taken());
  if (taken > 0 || bank->next_reference() > 0) {
    return absl::FailedPreconditionError(
        StrCat("bank '", name, "' is in use: msa bank rm deletes it all the same"));
  }
  return DeleteLocked(*bank);
}

absl::Status LocalShard::DeleteLocked(Bank& bank) {
  WriteSet writes;
  writes.Delete(Table::kSystem, BankKey(bank.spec().uid));
  writes.Delete(Table::kMeta, MetaKey(bank.spec().uid, ""));
  writes.Put(Table::kSystem, DeletedBankKey(bank.spec().uid), "");
  MSA_RETURN_IF_ERROR(store_->Commit(writes, Priority::kUrgent));
  bank.set_deleted();
  {
    absl::MutexLock lock(&banks_mutex_);
    banks_.erase(bank.spec().name);
  }
  snapshots_.CloseAll(bank);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<rpc::BankState>> LocalShard::ListBanks(const rpc::CallContext& ctx) {
  MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
  std::vector<rpc::BankState> states;
  for (const auto& bank : Banks()) {
    states.push_back(
        {bank->spec(), bank->next_reference(), bank->coarse(), bank->references_listed()});
  }
  return states;
}

absl::Status LocalShard::SetCoarse(const rpc::CallContext& ctx, const std::string& name,
                                   const rpc::CoarseState& state) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, name));
  MSA_RETURN_IF_ERROR(ValidateCoarse(bank->spec(), state));
  absl::MutexLock one_at_a_time(&bank->coarse_mutex());
  // All keys are read: nothing that other calls wait for is held.
  if (state.codes) MSA_RETURN_IF_ERROR(bank->index().KeepCodes(true));
  const absl::Status committed = CommitCoarse(*bank, state);
  if (!bank->coarse().codes) bank->index().KeepCodes(false).IgnoreError();  // needs nothing
  return committed;
}

absl::Status LocalShard::CommitCoarse(Bank& bank, const rpc::CoarseState& state) {
  // Of a bank that is deleted the sweep has removed all, or is about to: nothing may come after it.
  absl::ReaderMutexLock writing(&bank.write_mutex());
  MSA_RETURN_IF_ERROR(CheckNotDeleted(bank));
  WriteSet writes;
  writes.Put(Table::kSystem, CoarseKey(bank.spec().uid),
             EncodeRecord(PlainIdentity(bank.spec(), RecordKind::kCoarse, 0, 0),
                          EncodeCoarsePayload(state)));
  MSA_RETURN_IF_ERROR(store_->Commit(writes, Priority::kNormal));
  bank.set_coarse(state);
  return absl::OkStatus();
}

// ---- Documents: writing

absl::StatusOr<int64_t> LocalShard::TakeReferences(const rpc::CallContext& ctx,
                                                   const std::string& bank_name, uint64_t bank_uid,
                                                   int64_t at_least, int64_t count) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, bank_name));
  if (bank->spec().uid != bank_uid) {
    return absl::FailedPreconditionError(
        StrCat("bank '", bank_name, "' was deleted and made anew meanwhile: add again"));
  }
  MSA_RETURN_IF_ERROR(CheckRange("number of references", count, 1, kMaxReferencesTaken));
  absl::ReaderMutexLock writing(&bank->write_mutex());
  MSA_RETURN_IF_ERROR(CheckNotDeleted(*bank));
  // A record of its own: what a put writes down of the largest stored may be older than this.
  absl::MutexLock one_at_a_time(&bank->taking_mutex());
  MSA_ASSIGN_OR_RETURN(const int64_t taken, bank->references_taken());
  const int64_t first = std::max({at_least, bank->next_reference(), taken});
  MSA_RETURN_IF_ERROR(CheckRange("the first reference", first, 0, kMaxReference));
  WriteSet writes;
  writes.Put(Table::kSystem, TakenReferencesKey(bank->spec().uid),
             EncodeNextReference(first + count));
  MSA_RETURN_IF_ERROR(store_->Commit(writes, Priority::kNormal));
  bank->set_references_taken(first + count);
  return first;
}

absl::StatusOr<rpc::PutResult> LocalShard::PutDocument(const rpc::CallContext& ctx,
                                                       const rpc::EncodedDocument& document) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, document.bank));
  MSA_RETURN_IF_ERROR(ValidateDocument(bank->spec(), document));
  absl::ReaderMutexLock writing(&bank->write_mutex());
  MSA_RETURN_IF_ERROR(CheckNotDeleted(*bank));
  absl::MutexLock id_lock(&bank->IdMutex(document.document.id));
  return PutLocked(*bank, document);
}

// The revision a new one follows, of a live, damaged or deleted document; 0 when there was none.
absl::StatusOr<Tombstone> LocalShard::LastRevision(Bank& bank, const std::string& id,
                                                   const DocumentEntryPtr& current) {
  if (current != nullptr && current->revision > 0) {
    return Tombstone{current->revision, current->max_reference};
  }
  if (current == nullptr) {
    auto tombstone = ReadTombstone(*store_, bank.spec(), id);
    if (absl::IsNotFound(tombstone.status())) return Tombstone{};
    if (!absl::IsDataLoss(tombstone.status())) return tombstone;
    Damaged(bank, id, "tombstone", tombstone.status()).IgnoreError();
  }
  // The number is lost. Every revision took a reference of its own, so none was larger than this.
  const int64_t next = bank.next_reference();
  return Tombstone{static_cast<uint64_t>(next), next - 1};
}

absl::StatusOr<rpc::PutResult> LocalShard::PutLocked(Bank& bank,
                                                     const rpc::EncodedDocument& document) {
  const DocumentEntryPtr current = bank.Find(document.document.id);
  auto entry = std::make_shared<DocumentEntry>(MakeEntry(document));
  const auto result = [](const DocumentEntry& put) {
    return rpc::PutResult{put.revision, put.num_tokens, put.num_chunks,
                          static_cast<int32_t>(put.references.size())};
  };
  if (current != nullptr && current->damage.empty() && current->references == entry->references) {
    if (current->put_digest == entry->put_digest) return result(*current);
    TextPayload stored;
    MSA_ASSIGN_OR_RETURN(const rpc::Payload record, ReadText(bank, *current, &stored));
    if (SameButBlocks(stored, document)) return result(*current);
  }
  MSA_ASSIGN_OR_RETURN(const Tombstone last, LastRevision(bank, entry->id, current));
  // An attempt that was late: references are given once, so it is older than the deletion.
  if (last.first_reference == entry->references.front()) {
    return absl::InvalidArgumentError(
        StrCat("document '", entry->id, "' of bank '", bank.spec().name, "' had reference ",
               last.first_reference, " and was deleted since; add it again"));
  }
  entry->revision = last.revision + 1;
  entry->max_reference = std::max(last.max_reference, entry->references.back());
  MSA_RETURN_IF_ERROR(bank.Reserve(entry));
  absl::Status status = bank.index().Append(IndexParts(document));
  if (status.ok()) {
    status = CommitPut(bank, entry, current, document);
    if (!status.ok()) bank.index().Abandon(entry->references);
  }
  if (!status.ok()) {
    bank.Unreserve(*entry);
    return status;
  }
  const auto replaced = current == nullptr ? std::vector<int64_t>() : current->references;
  bank.Install(entry, bank.index().Publish(entry->references, replaced));
  return result(*entry);
}

absl::Status LocalShard::CommitPut(Bank& bank, const DocumentEntryPtr& entry,
                                   const DocumentEntryPtr& replaced,
                                   const rpc::EncodedDocument& document) {
  WriteSet writes;
  AddDocument(bank.spec(), *entry, document, absl::ToUnixMicros(options_.now()), &writes);
  if (replaced != nullptr) AddGarbage(bank.spec(), *replaced, &writes);
  const int64_t next = std::max(bank.next_reference(), entry->max_reference + 1);
  writes.Put(Table::kSystem, NextReferenceKey(bank.spec().uid), EncodeNextReference(next));
  return store_->Commit(writes, Priority::kNormal);
}

absl::StatusOr<uint64_t> LocalShard::DeleteDocument(const rpc::CallContext& ctx,
                                                    const std::string& bank_name,
                                                    const std::string& id) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, bank_name));
  MSA_RETURN_IF_ERROR(CheckRange("length of the document id", id.size(), 1, kMaxDocumentIdBytes));
  absl::ReaderMutexLock writing(&bank->write_mutex());
  if (bank->deleted()) return UnknownDocument(*bank, id);
  absl::MutexLock id_lock(&bank->IdMutex(id));
  return DeleteLocked(*bank, id);
}

absl::StatusOr<uint64_t> LocalShard::DeleteLocked(Bank& bank, const std::string& id) {
  const DocumentEntryPtr current = bank.Find(id);
  if (current == nullptr) return UnknownDocument(bank, id);
  DocumentEntry last = *current;
  if (last.revision == 0) {
    MSA_ASSIGN_OR_RETURN(const Tombstone lost, LastRevision(bank, id, current));
    last.revision = lost.revision;
    last.max_reference = lost.max_reference;
  }
  WriteSet writes;
  AddTombstone(bank.spec(), last, &writes);
  AddGarbage(bank.spec(), *current, &writes);
  MSA_RETURN_IF_ERROR(store_->Commit(writes, Priority::kUrgent));
  // Older revisions that snapshots still see go with it.
  for (const DocumentEntryPtr& revision : bank.Revisions(id)) {
    bank.index().Mask(revision->references);
  }
  bank.Remove(id);
  return last.revision;
}

// ---- Documents: reading

absl::Status LocalShard::Damaged(Bank& bank, const std::string& id, const std::string& what,
                                 const absl::Status& why) {
  bank.AddCorruptRecord();
  const std::string reason = StrCat(what, ": ", std::string(why.message()));
  Log(LogLevel::kError, "a document is damaged: add it again or delete it",
      {{"bank", bank.spec().name}, {"id", id}, {"why", reason}});
  return absl::DataLossError(StrCat("document '", id, "' of bank '", bank.spec().name,
                                    "' is damaged (", reason, "); add it again or delete it"));
}

absl::StatusOr<rpc::Payload> LocalShard::ReadText(Bank& bank, const DocumentEntry& entry,
                                                  TextPayload* text) {
  if (!entry.damage.empty()) {
    return absl::DataLossError(StrCat("document '", entry.id, "' of bank '", bank.spec().name,
                                      "' is damaged (", entry.damage,
                                      "); add it again or delete it"));
  }
  auto value = store_->Get(Table::kText, TextKey(bank.spec().uid, entry.references.front()));
  if (absl::IsNotFound(value.status())) return value.status();
  absl::Status status = value.status();
  if (status.ok()) {
    const auto identity =
        PlainIdentity(bank.spec(), RecordKind::kText, entry.references.front(), entry.revision);
    auto payload = VerifyRecord(value->view(), identity);
    auto decoded =
        payload.ok() ? DecodeTextPayload(*payload) : absl::StatusOr<TextPayload>(payload.status());
    status = decoded.status();
    if (status.ok() && decoded->description.info.id != entry.id) {
      status = absl::DataLossError("text of another document");
    }
    if (status.ok()) *text = *std::move(decoded);
  }
  if (status.ok()) return value;
  return absl::IsDataLoss(status) ? Damaged(bank, entry.id, "text", status) : status;
}

absl::StatusOr<rpc::StoredDocument> LocalShard::GetDocument(const rpc::CallContext& ctx,
                                                            const std::string& bank_name,
                                                            const std::string& id) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, bank_name));
  for (DocumentEntryPtr entry = bank->Find(id); entry != nullptr;) {
    TextPayload text;
    auto value = ReadText(*bank, *entry, &text);
    if (value.ok()) {
      return rpc::StoredDocument{std::move(text.description.info), std::string(text.full_text)};
    }
    if (!absl::IsNotFound(value.status())) return value.status();
    // Replaced and swept between directory and read: look again; else it is lost.
    const DocumentEntryPtr again = bank->Find(id);
    MSA_RETURN_IF_ERROR(CheckNotDeleted(*bank));
    if (again == entry) return Damaged(*bank, id, "text", absl::DataLossError("missing"));
    entry = again;
  }
  return UnknownDocument(*bank, id);
}

absl::StatusOr<std::vector<rpc::DocumentInfo>> LocalShard::ListDocuments(
    const rpc::CallContext& ctx, const std::string& bank_name, const std::string& after,
    int32_t limit) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, bank_name));
  // One more than a page, by which the router sees that there is a next one.
  MSA_RETURN_IF_ERROR(CheckRange("limit", limit, 1, kMaxPageSize + 1));
  std::vector<rpc::DocumentInfo> infos;
  std::string from = after;
  // Documents that vanish or prove damaged meanwhile leave gaps: fill the page from what follows.
  while (static_cast<int32_t>(infos.size()) < limit) {
    const auto entries = bank->List(from, limit - static_cast<int32_t>(infos.size()));
    if (entries.empty()) break;
    for (const DocumentEntryPtr& entry : entries) {
      auto info = ReadDocumentInfo(*store_, bank->spec(), entry->id);
      if (info.ok()) {
        infos.push_back(*std::move(info));
      } else if (absl::IsDataLoss(info.status())) {
        Damaged(*bank, entry->id, "record", info.status()).IgnoreError();
      } else if (!absl::IsNotFound(info.status())) {
        return info.status();
      }
    }
    from = entries.back()->id;
  }
  return infos;
}

absl::StatusOr<std::vector<rpc::PartText>> LocalShard::GetParts(
    const rpc::CallContext& ctx, const std::string& bank_name, uint64_t snapshot_id,
    absl::Span<const int64_t> references) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, bank_name));
  MSA_RETURN_IF_ERROR(CheckRange("number of references", references.size(), 0, kMaxRankLimit));
  MSA_ASSIGN_OR_RETURN(const auto snapshot, snapshots_.Use(snapshot_id, *bank));
  std::vector<rpc::PartText> parts;
  DocumentEntryPtr held;  // whose text is in `value`: neighbours often share a document
  rpc::Payload value;
  TextPayload text;
  for (int64_t reference : references) {
    MSA_RETURN_IF_ERROR(rpc::CheckCaller(ctx));
    const PartPlace place = bank->FindPart(reference);
    if (place.entry == nullptr || !bank->index().Visible(reference, snapshot->sequence)) continue;
    if (place.entry != held) {
      auto read = ReadText(*bank, *place.entry, &text);
      if (absl::IsNotFound(read.status())) {
        if (!bank->index().Visible(reference, snapshot->sequence) || snapshot->closed) continue;
        return Damaged(*bank, place.entry->id, "text", absl::DataLossError("missing"));
      }
      MSA_RETURN_IF_ERROR(read.status());
      value = *std::move(read);
      held = place.entry;
    }
    MSA_ASSIGN_OR_RETURN(rpc::PartText part, MakePartText(text, reference, place.part_index));
    parts.push_back(std::move(part));
  }
  return parts;
}

// ---- Figures

absl::StatusOr<rpc::ShardStats> LocalShard::Stats(const rpc::CallContext& ctx,
                                                  const std::string& bank_name) {
  MSA_ASSIGN_OR_RETURN(const std::shared_ptr<Bank> bank, FindBank(ctx, bank_name));
  const Bank::Counts counts = bank->counts();
  const IndexStats index = bank->index().Stats(bank->index().sequence());
  rpc::ShardStats stats;
  stats.spec = bank->spec();
  stats.num_documents = counts.documents;
  stats.num_parts = counts.parts;
  stats.num_tokens = counts.tokens;
  stats.num_chunks = counts.chunks;
  stats.resident_key_bytes = index.key_bytes;
  stats.disk_bytes = store_->DiskBytes();
  stats.num_segments = index.num_segments;
  stats.dead_parts = index.dead_parts;
  stats.open_snapshots = snapshots_.NumOpen(*bank);
  stats.corrupt_records = bank->corrupt_records();
  stats.rounded_selections = bank->selections().rounded;
  stats.rescanned_selections = bank->selections().rescanned;
  stats.coarse_selections = bank->selections().coarse;
  stats.code_bytes = index.code_bytes;
  stats.host_tier_bytes = backend_->host_tier_bytes();
  stats.coarse = bank->coarse();
  stats.next_reference = bank->next_reference();
  return stats;
}

}  // namespace msa::memory_node
